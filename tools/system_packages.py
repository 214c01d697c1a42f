"""Installs the Debian packages that the tests need, as root; without root names what is missing and goes on.

Installs only what is absent, never upgrades, never removes. `SYSTEM=no make test` leaves the machine alone altogether.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SystemPackage:
    """One Debian package.

    Args:
        name: as apt knows it.
        proof: a path pattern below / that exists when it is installed.
        purpose: what goes untested without it.
        services: that come with it and that no test needs: a computer that runs tests does not begin to serve its network.
    """

    name: str
    proof: str
    purpose: str
    services: tuple[str, ...] = ()


PACKAGES = (
    SystemPackage("postgresql", "usr/lib/postgresql/*/bin/initdb", "the site's database on PostgreSQL"),
    SystemPackage("systemd-container", "usr/bin/systemd-nspawn", "clients as real booted hosts"),
    SystemPackage("mmdebstrap", "usr/bin/mmdebstrap", "the base system of booted hosts"),
    SystemPackage("samba", "usr/sbin/smbd", "logon and distribution servers that are shares", ("smbd", "nmbd")),
    SystemPackage("nginx", "usr/sbin/nginx", "distribution servers that are plain web servers", ("nginx",)),
    SystemPackage("iproute2", "usr/sbin/ip", "the network of booted hosts"),
    SystemPackage("patchelf", "usr/bin/patchelf", "packages of the client"),
    SystemPackage("rpm", "usr/bin/rpmbuild", "packages of the client for RPM systems"),
    SystemPackage("util-linux", "usr/bin/nsenter", "entering booted hosts"),
)


def main() -> int:
    """Install what is missing, or name it."""
    missing = [package for package in PACKAGES if not any(Path("/").glob(package.proof))]
    if not missing:
        return 0 if lists_present() or not can_install() else refresh_lists()
    names = [package.name for package in missing]
    if not can_install():
        reason = "Without root" if os.geteuid() != 0 else "Without apt-get"
        print(f"system: {reason} these are not installed, and the tests that need them are skipped:")
        for package in missing:
            print(f"          {package.name:18} {package.purpose}")
        print(f"        To have them: apt-get install --no-install-recommends {' '.join(names)}")
        return 0
    print(f"system: installing {' '.join(names)}", flush=True)
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *names]
    # Lists may be absent (images drop them) or too old to fetch from: try with what there is, then with new ones.
    answer = apt(install) if lists_present() else None
    if answer is None or answer.returncode != 0:
        apt(["apt-get", "update"])
        answer = apt(install)
    if answer.returncode != 0:
        print(f"{answer.stdout}\nsystem: apt-get could not install {' '.join(names)}", file=sys.stderr)
        # In CI an incomplete machine must not pass for a tested one; elsewhere the skipped tests are listed at the end.
        return 1 if os.environ.get("CI") == "true" else 0
    silence([service for package in missing for service in package.services])
    return 0


def silence(services: list[str]) -> None:
    """Stop what an installation has started, for good."""
    if services and Path("/run/systemd/system").is_dir():
        subprocess.run(["systemctl", "disable", "--now", "--quiet", *services], check=False)


def apt(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run apt-get without questions, its words kept for the case of failure."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    return subprocess.run(
        [*command, "-o", "Dpkg::Use-Pty=0", "-qq"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def can_install() -> bool:
    """Whether this is root on a machine with apt."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def refresh_lists() -> int:
    """Fetch package lists where there are none at all: some tests install real Debian packages."""
    print("system: fetching apt's package lists", flush=True)
    if apt(["apt-get", "update"]).returncode != 0:
        print("system: apt-get update failed; tests that need apt are skipped", file=sys.stderr)
    return 0


def lists_present() -> bool:
    """Whether apt has any package list at all."""
    return any(Path("/var/lib/apt/lists").glob("*_Packages*"))


if __name__ == "__main__":
    sys.exit(main())
