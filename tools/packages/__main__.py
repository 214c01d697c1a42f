"""`make packages`: the client as `.deb`, `.rpm` and self-extracting setup, in `build/packages/`.

The same source, inputs and moment give the same bytes, wherever it is built. The moment is SOURCE_DATE_EPOCH, else that of the
last commit. `--architecture arm64` builds for the other kind of processor as well: nothing of it is executed while building.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tools.bootstrap import ROOT
from tools.packages.formats import make_deb, make_rpm, make_setup
from tools.packages.inputs import ARCHITECTURES, BuildError, here
from tools.packages.tree import build_tree, interpreter_for_here, source_version

OUT = ROOT / "build" / "packages"
EARLIEST = 315532800  # 1980, as far back as all archive formats reach
NEEDED = {"dpkg-deb": "dpkg", "apt-get": "apt", "patchelf": "patchelf", "rpmbuild": "rpm"}
FORMATS = ("deb", "rpm", "run")


def main() -> int:
    """Build what is asked for, or say in one line why it cannot be."""
    parser = argparse.ArgumentParser(prog="make packages", description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the packages (default: build/packages)")
    parser.add_argument("--version", default=None, help="what they say they are (default: the source's version)")
    parser.add_argument("--architecture", choices=ARCHITECTURES, default=None, help="default: this machine's")
    parser.add_argument("--format", choices=FORMATS, action="append", dest="formats", help="only this one (repeatable)")
    parser.add_argument("--level", type=int, choices=range(10), default=6, help="of compression (default: 6)")
    arguments = parser.parse_args()
    try:
        for path in build(
            arguments.out,
            version=arguments.version or source_version(),
            architecture=arguments.architecture,
            formats=arguments.formats or FORMATS,
            level=arguments.level,
        ):
            print(path)
    except BuildError as error:
        print(f"packages: {error}", file=sys.stderr)
        return 1
    return 0


def build(
    out: Path,
    *,
    version: str,
    architecture: str | None = None,
    formats: tuple[str, ...] | list[str] = FORMATS,
    level: int = 6,
) -> list[Path]:
    """Build packages into a folder; their paths, in the order of `formats`.

    Raises:
        BuildError: something that is needed is missing.
    """
    missing = sorted(package for program, package in NEEDED.items() if shutil.which(program) is None)
    if missing:
        raise BuildError(
            f"these Debian packages are needed: {' '.join(missing)} (as root, `make system` installs them)."
        )
    own = here()
    target = ARCHITECTURES[architecture] if architecture else own
    names = {
        "deb": f"pcm-client_{version}_{target.debian}.deb",
        "rpm": f"pcm-client-{version}-1.{target.rpm}.rpm",
        "run": f"pcm-client-{version}-{target.rpm}.run",
    }
    out = out.absolute()
    if "rpm" in formats and any(letter.isspace() for letter in str(out)):
        raise BuildError(f"rpmbuild cannot work in {out!s}: its name has a space in it. Give --out another folder.")
    os.umask(0o022)  # modes belong to the packages
    out.mkdir(parents=True, exist_ok=True)
    epoch = moment()
    with tempfile.TemporaryDirectory(prefix="pcm-packages-", dir=out) as folder:
        work = Path(folder)
        tree = work / "tree"
        build_tree(tree, version, target, None if target == own else interpreter_for_here(work))
        made = {name: work / names[name] for name in formats}
        if "deb" in made:
            make_deb(tree, work, made["deb"], version, target, epoch, level)
        if "rpm" in made:
            make_rpm(tree, work, made["rpm"], version, target, epoch, level)
        if "run" in made:
            make_setup(tree, made["run"], version, target, epoch, level)
        for path in made.values():
            path.replace(out / path.name)
    return [out / names[name] for name in formats]


def moment() -> int:
    """The one time that everything in the packages bears."""
    told = os.environ.get("SOURCE_DATE_EPOCH")
    if told is None:
        answer = subprocess.run(
            ["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        told = answer.stdout.strip() or str(int(time.time()))
    if not told.isdigit():
        raise BuildError(f"SOURCE_DATE_EPOCH is {told!r}, which is no number of seconds.")
    return max(int(told), EARLIEST)


if __name__ == "__main__":
    sys.exit(main())
