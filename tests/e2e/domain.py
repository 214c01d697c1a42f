"""A real Active Directory domain (Samba) on a booted host: a domain controller that shares folders of this machine.

    with Domain(folder, seen_as="/srv/site") as domain:
        domain.add_user("svc-pcm", PASSWORD)
        keytab = domain.export_keytab("svc-pcm")
        domain.reach(client_host)      # a cable between the two, names, and an /etc/krb5.conf

The domain is provisioned once, when its system is built; each test host begins with that one and its own changes vanish. Clients
have a cable of their own to it: nothing of it can be reached from this machine, and nothing passes through it.
"""

import re
import subprocess
import time
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.e2e.base_system import base_system
from tests.e2e.booted_host import BootedHost

REALM, SHORT = "CORP.EXAMPLE.ORG", "CORP"
NAME = "headquarters01"  # 14 letters: server names were once limited to 11 (KB Q126643)
FULL_NAME = f"{NAME}.{REALM.lower()}"
ALIAS = f"distribution-server-of-the-first-floor.{REALM.lower()}"  # longer than any NetBIOS name
ADMINISTRATOR_PASSWORD = "Only-for-tests-1"
ADDRESS = IPv4Address("10.230.255.1")
SHARE = "site"
PACKAGES = ("samba", "samba-ad-dc", "samba-ad-provision", "winbind")
PATIENCE_S = 60
AUDITING = "    log level = 1 auth_audit:3\n"  # each question about a password, whatever comes of it
SHARING = f"""
[{SHARE}]
    path = /srv/site
    read only = yes
    valid users = @"{SHORT}\\readers"
"""
KRB5 = f"""
[libdefaults]
    default_realm = {REALM}
    dns_lookup_kdc = false
    dns_lookup_realm = false
    dns_canonicalize_hostname = false
    rdns = false
[realms]
    {REALM} = {{
        kdc = {ADDRESS}
    }}
"""
# services that come with the packages and are not the controller
PROVISION = f"""
systemctl mask smbd nmbd winbind systemd-resolved >/dev/null 2>&1
systemctl unmask samba-ad-dc >/dev/null 2>&1
systemctl disable samba-ad-dc >/dev/null 2>&1
rm -f /etc/samba/smb.conf
samba-tool domain provision --realm={REALM} --domain={SHORT} --server-role=dc --dns-backend=SAMBA_INTERNAL \\
    --host-name={NAME} --host-ip={ADDRESS} --adminpass={ADMINISTRATOR_PASSWORD} >/tmp/provision 2>&1 || {{ cat /tmp/provision; exit 1; }}
"""


def domain_system() -> Path:
    """The controller's system, built if need be (a minute)."""
    return base_system("domain", PACKAGES, PROVISION)


class Domain:
    """A running domain with one controller, which is its file server too.

    Args:
        shared: folder of this machine that it shares as `site`, read-only.
    """

    def __init__(self, shared: Path) -> None:
        self.host = BootedHost(domain_system(), {shared: "/srv/site"})
        self._cables = 0

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.host.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.host.close()

    def _start(self) -> None:
        configuration = self.host.path("/etc/samba/smb.conf")
        provisioned = configuration.read_text()
        assert provisioned.count("[global]\n") == 1
        configuration.write_text(provisioned.replace("[global]\n", f"[global]\n{AUDITING}") + SHARING)
        with self.host.path("/etc/hosts").open("a") as hosts:
            hosts.write(f"{ADDRESS} {FULL_NAME} {NAME}\n")
        self.host.boot()
        own = ["ip", "-n", self.host.name, "address", "add", f"{ADDRESS}/32", "dev", "lo"]
        subprocess.run(own, check=True, capture_output=True)
        self.host.shell("systemctl start samba-ad-dc", timeout=90)
        end = time.monotonic() + PATIENCE_S
        while "Administrator" not in self.tool("user", "list", check=False):
            assert time.monotonic() < end, self.host.shell("journalctl --no-pager -n 50", check=False)
            time.sleep(0.2)
        self.tool("domain", "passwordsettings", "set", "--account-lockout-threshold=3", "--complexity=off",
                  "--min-pwd-age=0", "--history-length=0")  # fmt: skip
        self.tool("group", "add", "readers")
        self.tool("spn", "add", f"cifs/{ALIAS}", f"{NAME}$")

    def tool(self, *arguments: str, check: bool = True) -> str:
        """Run samba-tool on the controller; what it printed."""
        return self.host.run("samba-tool", *arguments, check=check, timeout=60).stdout

    def add_reader(self, user: str, password: str) -> None:
        """A new user who may read the share."""
        self.tool("user", "create", user, password)
        self.tool("group", "addmembers", "readers", user)

    def export_keytab(self, user: str) -> bytes:
        """The user's keys, as an administrator of the domain exports them for a service."""
        self.host.shell("rm -f /var/tmp/keytab")
        self.tool("domain", "exportkeytab", "/var/tmp/keytab", f"--principal={user}")
        return self.host.path("/var/tmp/keytab").read_bytes()

    def look(self, user: str, attribute: str) -> str:
        """An attribute of a user, as it stands in the domain; empty if it has none."""
        shown = self.tool("user", "show", user, f"--attributes={attribute}")
        found = re.search(rf"^{attribute}: (.*)$", shown, re.MULTILINE)
        return found[1].strip() if found else ""

    def questions(self, user: str) -> int:
        """How often the controller was asked to believe a user's key or password."""
        log = self.host.path("/var/log/samba/log.samba").read_text(errors="replace")
        return sum(f"[{user}@{REALM}]" in line or f"[{user}]" in line for line in log.splitlines() if "Auth: [" in line)

    def reach(self, client: BootedHost) -> None:
        """Give a client a cable to the domain, names, and an `/etc/krb5.conf`, as joining the domain would."""
        self._cables += 1
        near, far = IPv4Address("10.230.0.1") + 4 * self._cables, IPv4Address("10.230.0.2") + 4 * self._cables
        ours, theirs = ["ip", "-n", self.host.name], ["ip", "-n", client.name]
        for command in (
            [
                *ours,
                "link",
                "add",
                f"dom{self._cables}",
                "type",
                "veth",
                "peer",
                "name",
                "domain0",
                "netns",
                client.name,
            ],
            [*ours, "address", "add", f"{near}/30", "dev", f"dom{self._cables}"],
            [*ours, "link", "set", f"dom{self._cables}", "up"],
            # DNS answers come from the address that was asked
            [*ours, "route", "replace", f"{near - 1}/30", "dev", f"dom{self._cables}", "src", str(ADDRESS)],
            [*theirs, "address", "add", f"{far}/30", "dev", "domain0"],
            [*theirs, "link", "set", "domain0", "up"],
            [*theirs, "route", "add", f"{ADDRESS}/32", "via", str(near)],
        ):
            subprocess.run(command, check=True, capture_output=True)
        with client.path("/etc/hosts").open("a") as hosts:
            hosts.write(f"{ADDRESS} {FULL_NAME} {ALIAS}\n")
        client.path("/etc/krb5.conf").write_text(KRB5)
