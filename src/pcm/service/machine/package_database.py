"""What the system's own package tools have installed. Serves step 11 (`detect`) and step 7 ('already there?').

dpkg's database is read as a file (deb822 paragraphs; a run of dpkg that is under way leaves its news in `updates/`), because
asking costs a process for each question. It never writes there. RPM's is a binary one: `detection` asks `rpm` itself.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from pcm.model.errors import MachineError

DPKG_DATABASE = Path("/var/lib/dpkg")
# dpkg(1), "Package states": in these the package's files are there and it has been configured
_INSTALLED = {"installed", "triggers-awaited", "triggers-pending"}
_UPDATE = re.compile(r"\d{4}")


def dpkg_versions(package: str, database: Path = DPKG_DATABASE) -> list[str] | None:
    """Versions of a Debian package that are installed (several if several architectures are); `name:arch` names one.

    Returns:
        None if this computer has no dpkg.

    Raises:
        MachineError: `machine.detection`: the database is there but cannot be read.
    """
    name, _, architecture = package.partition(":")
    found: dict[str, str | None] = {}
    try:
        for paragraph in _paragraphs(database, name):
            words = paragraph.get("Status", "").split()
            installed = len(words) == 3 and words[2] in _INSTALLED
            found[paragraph.get("Architecture", "")] = paragraph.get("Version") if installed else None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise MachineError(
            f"dpkg's database in {database} cannot be read: {error}.", code="machine.detection"
        ) from error
    return [
        version
        for each, version in found.items()
        if version is not None and (not architecture or architecture in {each, "any"})
    ]


def _paragraphs(database: Path, name: str) -> Iterator[dict[str, str]]:
    """Give the paragraphs of one package, older ones first."""
    updates = database / "updates"
    later = sorted(path for path in updates.iterdir() if _UPDATE.fullmatch(path.name)) if updates.is_dir() else []
    for file in (database / "status", *later):
        text = "\n" + file.read_text(encoding="utf-8")
        at = text.find(f"\nPackage: {name}\n")
        while at >= 0:
            end = text.find("\n\n", at)
            lines = text[at + 1 : end if end >= 0 else len(text)].split("\n")
            yield dict(line.split(": ", 1) for line in lines if ": " in line and not line.startswith((" ", "\t")))
            at = text.find(f"\nPackage: {name}\n", at + 1)
