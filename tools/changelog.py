"""One changelog fragment per change: checks them, and moves them into CHANGELOG.md for a release.

A fragment is `changelog.d/<few-words>.<kind>.md`: one or more sentences for people who use the product, no heading. Kinds in
the order in which they are shown: see `KINDS`.
"""

import re
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FRAGMENTS = ROOT / "changelog.d"
CHANGELOG = ROOT / "CHANGELOG.md"
KINDS = {"security": "Security", "added": "Added", "changed": "Changed", "fixed": "Fixed", "removed": "Removed"}
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\.(" + "|".join(KINDS) + r")\.md")
MARK = "<!-- releases below, newest first -->\n"


def main() -> int:
    """`check`, or `assemble VERSION`."""
    match sys.argv[1:]:
        case ["check"]:
            faults = check()
            print("\n".join(faults), file=sys.stderr) if faults else None
            return 1 if faults else 0
        case ["assemble", version] if re.fullmatch(r"\d+\.\d+\.\d+", version):
            return assemble(version)
        case _:
            print("usage: changelog.py check | assemble VERSION (as in 1.2.3)", file=sys.stderr)
            return 2


def fragments() -> list[Path]:
    """All fragments, by name."""
    return sorted(path for path in FRAGMENTS.iterdir() if path.name not in {"README.md", ".gitignore"})


def check() -> list[str]:
    """Every fault, one line each."""
    faults = []
    for path in fragments():
        place = path.relative_to(ROOT)
        text = path.read_text().strip()
        if not NAME.fullmatch(path.name):
            faults.append(f"{place}: the name must be <few-words>.<{'|'.join(KINDS)}>.md")
        if not text:
            faults.append(f"{place}: is empty")
        elif text.startswith("#") or not text.endswith((".", "`", ")")):
            faults.append(f"{place}: write whole sentences, no heading")
    if MARK not in CHANGELOG.read_text():
        faults.append(f"CHANGELOG.md: the line {MARK.strip()!r} is missing")
    return faults


def assemble(version: str) -> int:
    """Write the release's part of CHANGELOG.md and remove the fragments."""
    faults = check()
    if faults or not fragments():
        print("\n".join(faults) or "changelog.d holds no fragments", file=sys.stderr)
        return 1
    lines = [f"## {version} ({datetime.now(UTC).date().isoformat()})", ""]
    for kind, heading in KINDS.items():
        entries = [path for path in fragments() if path.name.endswith(f".{kind}.md")]
        if entries:
            lines += [f"### {heading}", ""]
            lines += ["- " + path.read_text().strip().replace("\n", "\n  ") for path in entries] + [""]
    before, after = CHANGELOG.read_text().split(MARK)
    CHANGELOG.write_text(before + MARK + "\n" + "\n".join(lines) + after)
    for path in fragments():
        path.unlink()
    print(f"CHANGELOG.md: {version} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
