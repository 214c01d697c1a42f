"""The article's service account: a domain account that may read instruction and package folders, against a real domain.

An Active Directory controller (Samba) shares the folders that a site publishes to; a booted client reads them with Kerberos. The
domain's lockout policy is real, and strict: three wrong passwords.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from pcm.site import configuration
from tests.e2e.base_system import base_system
from tests.e2e.booted_host import BootedHost
from tests.e2e.client_packages import Built
from tests.e2e.domain import ADDRESS, ALIAS, FULL_NAME, KRB5, REALM, SHARE, Domain
from tests.e2e.hosts import PROOF, Answer, Client, Site, wait_for
from tests.e2e.packaged_host import KIT, PackagedClient

pytestmark = pytest.mark.needs("nspawn")

LOGON, PACKAGES = f"smb://{FULL_NAME}/{SHARE}/logon", f"smb://{ALIAS}/{SHARE}/packages"
FILE, SECRET = "/etc/pcm/account.json", "/etc/pcm/account.secret"
RIGHT, WRONG = "Right-password-1", "Wrong-password-1"


class Lab(NamedTuple):
    """A domain, a site whose folders it shares, and a client that it enrolled over http."""

    domain: Domain
    site: Site
    client: Client
    shared: Path

    def give(self, user: str, *, keytab: bytes | None = None, password: str = "") -> None:
        """Tell the client its account."""
        host = self.client.host
        host.path(SECRET).write_bytes(keytab or f"{password}\n".encode())
        host.path(SECRET).chmod(0o600)
        kind = "password_file" if keytab is None else "keytab"
        host.path(FILE).write_text(json.dumps({"user": user, "domain": REALM.lower(), kind: SECRET}))
        host.path(FILE).chmod(0o644)

    def reader(self, user: str) -> None:
        """A new reader of the share, whose keytab the client has."""
        self.domain.add_reader(user, RIGHT)
        self.give(user, keytab=self.domain.export_keytab(user))

    def ask(self) -> Answer:
        """One check of the service: what it said, and its exit code."""
        return self.client.pcmsvc("once", check=False)

    def failures(self, user: str) -> int:
        """How many wrong passwords the domain counts for a user."""
        return int(self.domain.look(user, "badPwdCount") or 0)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    folder = Path(tempfile.mkdtemp(prefix="pcm-shares-"))
    shared = folder / "shared"
    shared.mkdir()
    for place in (folder, shared):
        place.chmod(0o755)
    try:
        with Domain(shared) as domain, BootedHost(base_system()) as host:
            host.boot()
            domain.reach(host)
            servers = (
                "--logon",
                f"share={LOGON},{shared}/logon",
                "--distribution",
                f"share={PACKAGES},{shared}/packages",
            )
            site = Site(folder, host.gateway, servers)
            now = configuration.read(site.folder)  # shares first: the site itself only enrols, and takes reports
            configuration.write(
                site.folder, msgspec.structs.replace(now, logon=now.logon[::-1], distribution=now.distribution[::-1])
            )
            site.serve()
            try:
                client = Client(host, site)
                client.enrol()
                yield Lab(domain, site, client, shared)
            finally:
                site.stop()
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def alone(lab: Lab) -> Iterator[Lab]:
    """The site itself is away: what the client gets, it gets from shares."""
    lab.site.stop()
    yield lab
    lab.site.serve()


def publish_and_order(lab: Lab, package: str) -> str:
    lab.site.publish(package, "[run]", files={"run": f"#!/bin/sh\necho run >>{PROOF}/$PCM_PACKAGE.runs\n"})
    job = lab.site.order(package)
    place = lab.shared / "logon" / "clients"
    wait_for(
        lambda: any(package.encode() in file.read_bytes() for file in place.glob("*/*.instructions.json")), package
    )
    return job


def test_q126643_q128456_q153249_instructions_and_package_come_by_smb_from_servers_with_long_names(lab: Lab) -> None:
    lab.reader("svc-install")
    job = publish_and_order(lab, "from-a-share")
    lab.site.stop()
    try:
        said = lab.ask()
    finally:
        lab.site.serve()
    assert lab.client.proof("from-a-share.runs") == "run\n", said.stdout + said.stderr
    assert f"instructions: {LOGON}" in said.stdout
    assert f"packages: {PACKAGES}" in said.stdout
    assert not {"cifs", "smb3", "nfs", "autofs"} & {line.split()[2] for line in mounts(lab)}  # KB Q185347, Q150727
    assert lab.ask().returncode == 0  # reports go to the site, which is back
    assert lab.site.states(job) == {lab.client.host.name: "succeeded"}
    shown = lab.client.pcmsvc("check", "--json").stdout
    told = {each["name"]: each for each in json.loads(shown)["requirements"]}
    assert told["account for shares"]["holds"], shown
    assert f"svc-install@{REALM} by its keytab" in told["account for shares"]["message"]


def test_the_service_as_its_unit_binds_it_reads_shares_too(lab: Lab) -> None:
    lab.reader("svc-bound")
    publish_and_order(lab, "from-the-unit")
    lab.site.stop()
    lab.client.start()
    try:
        wait_for(lambda: lab.client.proof("from-the-unit.runs"), lab.client.log())
    finally:
        lab.client.host.shell("systemctl disable --now pcmsvc")
        lab.site.serve()


@pytest.mark.needs("packages")
@pytest.mark.timeout(600)
def test_the_client_as_it_is_packaged_reads_shares_with_the_computers_own_kerberos(
    lab: Lab, client_packages: Built
) -> None:
    with BootedHost(base_system(), bare=True) as host:
        host.boot()
        lab.domain.reach(host)
        client = PackagedClient(host, lab.site)
        client.type("dpkg", "--install", client.bring(client_packages.deb(), "client.deb"))
        token = lab.site.token()
        client.type("pcmsvc", "install", "--kit", KIT, "--token", "-", words=f"{token}\n")
        assert client.unmet() == {"account for shares"}  # the site's own servers answer
        lab._replace(client=client).reader("svc-packaged")
        publish_and_order(lab, "for-packaged")
        lab.site.stop()
        try:
            said = client.pcmsvc("once", check=False)
        finally:
            lab.site.serve()
        assert client.proof("for-packaged.runs") == "run\n", said.stdout + said.stderr
        assert client.unmet() == set()


def mounts(lab: Lab) -> list[str]:
    return lab.client.host.shell("cat /proc/mounts").splitlines()


def test_no_account_is_handed_to_a_server_that_the_administrator_did_not_name(alone: Lab) -> None:
    alone.reader("svc-choosy")
    path = alone.client.host.path(FILE)
    path.write_text(json.dumps({**json.loads(path.read_text()), "servers": ["files.example.com"]}))
    said = alone.ask()
    assert said.returncode == 4
    assert "transfer.no_account" in said.stdout + said.stderr
    assert f"is not for {FULL_NAME}" in said.stdout + said.stderr


def test_denied_on_the_share_or_on_a_folder_is_said_with_account_and_file(alone: Lab) -> None:
    alone.reader("svc-denied")
    assert alone.ask().returncode == 0
    alone.domain.tool("group", "removemembers", "readers", "svc-denied")
    said = alone.ask()
    assert said.returncode == 4
    assert (
        f"The account svc-denied@{REALM} may not read \\\\{FULL_NAME}\\{SHARE}\\logon\\clients"
        in said.stdout + said.stderr
    )
    alone.domain.tool("group", "addmembers", "readers", "svc-denied")
    assert alone.ask().returncode == 0
    (alone.shared / "logon" / "clients").chmod(0o700)
    try:
        said = alone.ask()
    finally:
        (alone.shared / "logon" / "clients").chmod(0o755)
    assert said.returncode == 4
    assert "may not read" in said.stdout + said.stderr
    assert alone.failures("svc-denied") == 0
    assert alone.ask().returncode == 0


def expire_password(lab: Lab, user: str) -> None:
    lab.domain.tool("user", "setpassword", user, f"--newpassword={RIGHT}", "--must-change-at-next-login")


def mend_password(lab: Lab, user: str) -> None:
    lab.domain.tool("user", "setpassword", user, f"--newpassword={RIGHT}")
    lab.give(user, keytab=lab.domain.export_keytab(user))


def take_another_key(lab: Lab, user: str) -> None:
    lab.domain.tool("user", "setpassword", user, f"--newpassword={WRONG}")  # the keytab is of the password before


REFUSALS = {
    "expired password": ("transfer.password_expired", expire_password, mend_password),
    "disabled account": (
        "transfer.account_disabled",
        lambda lab, user: lab.domain.tool("user", "disable", user),
        lambda lab, user: lab.domain.tool("user", "enable", user),
    ),
    "expired account": (
        "transfer.account_expired",
        lambda lab, user: lab.domain.tool("user", "setexpiry", user, "--days=-1"),
        lambda lab, user: lab.domain.tool("user", "setexpiry", user, "--noexpiry"),
    ),
    "stale keytab": ("transfer.account_refused", take_another_key, mend_password),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_q230242_each_refusal_has_its_name_and_is_left_alone_until_it_is_mended(alone: Lab, kind: str) -> None:
    code, refuse, mend = REFUSALS[kind]
    user = f"svc-{kind.replace(' ', '-')}"
    alone.reader(user)
    refuse(alone, user)
    said = alone.ask()
    assert said.returncode == 4
    assert f"The account {user}@{REALM} cannot log on" in said.stdout + said.stderr
    assert code in said.stdout + said.stderr
    before = alone.domain.questions(user)
    assert before >= 1
    for _ in range(3):
        checked = alone.client.pcmsvc("check", check=False)
        assert "not tried again before" in checked.stdout
    assert alone.domain.questions(user) == before
    mend(alone, user)
    assert alone.ask().returncode == 0


def test_q184858_a_wrong_password_left_in_place_never_locks_the_account(alone: Lab) -> None:
    alone.domain.add_reader("svc-forgotten", RIGHT)
    alone.give("svc-forgotten", password=WRONG)
    alone.client.start()
    try:
        for _ in range(5):  # at each, three servers of one domain are asked for something
            alone.client.pcmsvc("sync")
            alone.client.pcmsvc("check", check=False)
            alone.client.pcmsvc("once", check=False)
    finally:
        alone.client.host.shell("systemctl disable --now pcmsvc")
    assert alone.failures("svc-forgotten") == alone.domain.questions("svc-forgotten") == 1
    assert alone.domain.look("svc-forgotten", "lockoutTime") in ("", "0")
    alone.give("svc-forgotten", password=RIGHT)
    assert alone.ask().returncode == 0  # a new password is tried at once
    assert alone.failures("svc-forgotten") == 0


def test_a_locked_account_is_named_so(alone: Lab) -> None:
    alone.domain.add_reader("svc-locked", RIGHT)
    for number in range(3):  # the policy is real: three different wrong passwords, each tried once, do lock it
        alone.give("svc-locked", password=f"{WRONG}{number}")
        assert "transfer.account_refused" in (said := alone.ask()).stdout + said.stderr
    alone.give("svc-locked", password=RIGHT)
    said = alone.ask()
    assert "transfer.account_locked" in said.stdout + said.stderr
    assert "it is locked" in said.stdout + said.stderr
    alone.domain.tool("user", "unlock", "svc-locked")
    assert alone.ask().returncode == 0


def test_a_domain_without_a_controller_that_answers_is_no_fault_of_the_account(alone: Lab) -> None:
    alone.reader("svc-patient")
    path = alone.client.host.path("/etc/krb5.conf")
    path.write_text(KRB5.replace("kdc = ", "kdc = 127.0.0.9 # "))
    try:
        said = alone.ask()
    finally:
        path.write_text(KRB5)
    assert "transfer.kdc_unreachable" in said.stdout + said.stderr
    assert alone.failures("svc-patient") == 0
    assert alone.ask().returncode == 0


def test_controllers_are_found_by_dns_where_nobody_names_them(alone: Lab) -> None:
    alone.reader("svc-finder")
    path = alone.client.host.path("/etc/krb5.conf")
    path.write_text(
        f"[libdefaults]\n    rdns = false\n    dns_canonicalize_hostname = false\n    default_realm = {REALM}\n"
    )
    alone.client.host.path("/etc/resolv.conf").write_text(f"nameserver {ADDRESS}\n")
    try:
        said = alone.ask()
    finally:
        path.write_text(KRB5)
        alone.client.host.path("/etc/resolv.conf").write_text("")
    assert said.returncode == 0, said.stdout + said.stderr
