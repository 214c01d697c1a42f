"""The three forms in which the client reaches a computer: `.deb`, `.rpm`, and a setup that extracts itself.

Each holds the same tree. Equal trees give equal bytes: owners are root, times are one moment, names are in order.
"""

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

from pcm.cli.setup_file import with_length
from pcm.service.installation.layout import completion_links
from tools.bootstrap import ROOT
from tools.packages.inputs import Architecture, BuildError
from tools.packages.tree import LAUNCHED, PACKAGING

CHUNK = 2**20


def make_deb(
    tree: Path, work: Path, target: Path, version: str, architecture: Architecture, epoch: int, level: int
) -> None:
    """Wrap the tree as a Debian package."""
    root = _package_root(tree, work / "deb", epoch, completion_links(debian=True))
    control = root / "DEBIAN"
    control.mkdir(mode=0o755)
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    text = (PACKAGING / "debian" / "control").read_text()
    for name, value in (("VERSION", version), ("ARCHITECTURE", architecture.debian), ("KIB", str(-(-size // 1024)))):
        text = text.replace(f"@{name}@", value)
    _write(control / "control", text, 0o644)
    for script in ("postinst", "prerm", "postrm"):
        _write(control / script, (PACKAGING / "debian" / script).read_text(), 0o755)
    _set_times(root, epoch)
    command = ["dpkg-deb", "--root-owner-group", "--uniform-compression", "-Zxz", f"-z{level}", "--threads-max=1"]
    _run([*command, "--build", str(root), str(target)], {"SOURCE_DATE_EPOCH": str(epoch)})


def make_rpm(
    tree: Path, work: Path, target: Path, version: str, architecture: Architecture, epoch: int, level: int
) -> None:
    """Wrap the tree as an RPM package."""
    root = _package_root(tree, work / "rpm-root", epoch, completion_links(debian=False))
    top = work / "rpm"
    top.mkdir()
    spec = top / "pcm-client.spec"
    text = (PACKAGING / "rpm" / "pcm-client.spec").read_text()
    for name, value in (("VERSION", version), ("ROOT", str(root)), ("LEVEL", str(level))):
        text = text.replace(f"@{name}@", value)
    spec.write_text(text)
    command = [
        "rpmbuild",
        "-bb",
        "--quiet",
        "--nodeps",
        f"--target={architecture.rpm}-linux",
        f"--define=_topdir {top}",
    ]
    _run(
        [*command, f"--define=_tmppath {top}", f"--define=_dbpath {top}/db", str(spec)],
        {"SOURCE_DATE_EPOCH": str(epoch)},
    )
    [made] = (top / "RPMS").rglob("*.rpm")
    shutil.move(made, target)


def make_setup(tree: Path, target: Path, version: str, architecture: Architecture, epoch: int, level: int) -> None:
    """Put the tree behind a shell script that verifies and installs it; `pcm client installer` presets it with a site."""
    payload = io.BytesIO()
    with (
        gzip.GzipFile("", "wb", compresslevel=max(level, 1), fileobj=payload, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for path in (tree, *sorted(tree.rglob("*"))):
            entry = archive.gettarinfo(path, arcname=str(Path("tree") / path.relative_to(tree)))
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = "root"
            entry.mtime = epoch
            if path.is_file():
                with path.open("rb") as file:
                    archive.addfile(entry, file)
            else:
                archive.addfile(entry)
    data = payload.getvalue()
    head = (PACKAGING / "setup" / "head.sh").read_text()
    values = {
        "VERSION": version,
        "MACHINE": architecture.rpm,
        "PAYLOAD_BYTES": str(len(data)),
        "PAYLOAD_SHA256": hashlib.sha256(data).hexdigest(),
    }
    for name, value in values.items():
        head = head.replace(f"@{name}@", value)
    target.write_bytes(with_length(head) + data)
    target.chmod(0o755)


def _package_root(tree: Path, root: Path, epoch: int, completions: dict[str, str]) -> Path:
    """The files of a package as they will lie below `/`. The tree's own are hard links: nothing changes them."""
    root.mkdir(mode=0o755, parents=True)
    package = root / "opt" / "pcm" / "package"
    shutil.copytree(tree, package, copy_function=os.link)
    documents = root / "usr" / "share" / "doc" / "pcm-client"
    programs = root / "usr" / "bin"
    units = root / "usr" / "lib" / "systemd" / "system"
    for folder in (documents, programs, units):
        folder.mkdir(parents=True)
    for name in LAUNCHED:
        (programs / name).symlink_to(f"/opt/pcm/current/bin/{name}")
    for name, leads_to in completions.items():
        path = root / "usr" / "share" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(leads_to)
    shutil.copyfile(PACKAGING / "systemd" / "pcmsvc.service", units / "pcmsvc.service")
    shutil.copyfile(ROOT / "LICENSE", documents / "copyright")
    for path in (root, *root.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
        elif not path.is_symlink() and package not in path.parents:
            path.chmod(0o644)
    _set_times(root, epoch)
    return root


def _set_times(root: Path, epoch: int) -> None:
    for path in (*root.rglob("*"), root):
        os.utime(path, (epoch, epoch), follow_symlinks=False)


def _write(path: Path, text: str, mode: int) -> None:
    path.write_text(text)
    path.chmod(mode)


def _run(command: list[str], environment: dict[str, str]) -> None:
    answer = subprocess.run(
        command,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "LC_ALL": "C", **environment},
        capture_output=True,
        text=True,
        check=False,
        umask=0o022,
    )
    if answer.returncode != 0:
        raise BuildError(f"`{' '.join(command)}` failed:\n{answer.stdout}{answer.stderr}")
