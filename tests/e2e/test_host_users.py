"""Programs for users on a real host, ordered at a real site: each user at next logon, nobody logged on, and what such a program can do.

Nobody tells the service that somebody has logged on: it notices. Each program leaves marks that show how often it ran for whom.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.booted_host import BootedHost
from tests.e2e.hosts import PROOF, Client, Site, served_site, wait_for
from tests.e2e.logged_on import Desk

pytestmark = pytest.mark.needs("nspawn")

NOTICED_S = 100.0  # two checks because of logons are at least half a minute apart, and these hosts share two cores
PER_USER = f"""#!/bin/sh
mkdir -p "$HOME/.config" && echo "theme=site" >"$HOME/.config/per-user.conf" || exit 9
busctl --user status >/dev/null || exit 8
touch {PROOF}/$PCM_PACKAGE.$(id -un).$PCM_RUN_ID
test "$(id -un)" != bob || exit 7
"""
DESCRIBED = """name: {name}
version: "1.0"
platforms: [linux-any]
programs:
  install:
    command: [setup{more}]
    run_as: {run_as}
    timeout: 2m
"""
TRY = 'try() { name=$1; shift; if ( "$@" ) >/dev/null 2>&1; then echo "LEAK $name"; fi; }\n'


@pytest.fixture(scope="module")
def hosted(nspawn_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Client, Desk]]:
    folder = tmp_path_factory.mktemp("lab")
    with BootedHost(nspawn_base) as host, served_site(folder, host.gateway) as site:
        host.boot()
        client = Client(host, site)
        host.shell(f"chmod 1777 {PROOF}")
        client.enrol()
        client.start()
        desk = Desk(host)
        desk.add("alice", "bob", "carol")
        yield site, client, desk


@pytest.fixture
def site(hosted: tuple[Site, Client, Desk]) -> Site:
    return hosted[0]


@pytest.fixture
def client(hosted: tuple[Site, Client, Desk]) -> Client:
    return hosted[1]


@pytest.fixture
def desk(hosted: tuple[Site, Client, Desk]) -> Desk:
    return hosted[2]


def marks(client: Client, package: str) -> list[str]:
    """For whom the package's program ran, once for each time."""
    names = client.host.shell(f"ls {PROOF}").split()
    return sorted(name.split(".")[1] for name in names if name.startswith(f"{package}."))


def wait_until_known(client: Client, package: str, code: str) -> dict[str, Any]:
    """Have the service ask until it knows the order and has decided so; what it then says."""
    seen: dict[str, Any] = {}

    def decided() -> bool:
        client.pcmsvc("sync")
        seen.clear()
        seen.update(client.items().get(package, {}))
        return str(seen.get("code")) == code

    try:
        wait_for(decided, f"{package} to wait for {code}", NOTICED_S)
    except AssertionError as error:
        error.add_note(f"It last said: {seen}")
        raise
    return seen


def test_q172872_each_user_at_their_next_logon_and_once(site: Site, client: Client, desk: Desk) -> None:
    desk.only()
    site.publish_described(
        DESCRIBED.format(name="per-user", more="", run_as="each_user"), "per-user", files={"setup": PER_USER}
    )
    job = site.order("per-user")
    waiting = wait_until_known(client, "per-user", "wait.next_logon")
    assert waiting["state"] == "waiting"
    assert marks(client, "per-user") == [], "nobody is logged on"

    desk.log_on("alice")
    desk.log_on("bob")
    wait_for(lambda: marks(client, "per-user") == ["alice", "bob"], "two who are logged on", NOTICED_S, client.log)
    wait_for(lambda: len(site.job(job)["results"]) == 2, "both results at the site")
    for user in ("alice", "bob"):
        found = client.host.shell(
            f"cat /home/{user}/.config/per-user.conf; stat -c '%U %a' /home/{user}/.config/per-user.conf"
        )
        assert found == f"theme=site\n{user} 644\n"
    results = {result["run_as"]: result["exit_code"] for result in site.job(job)["results"]}
    assert results == {"alice": 0, "bob": 7}

    desk.log_on("carol")
    wait_for(lambda: marks(client, "per-user") == ["alice", "bob", "carol"], "who comes later", NOTICED_S, client.log)
    desk.log_off("alice")
    desk.log_on("alice")
    client.pcmsvc("once", check=False)
    client.host.shell("sleep 8")  # whatever the logon has woken is over by then
    assert marks(client, "per-user") == ["alice", "bob", "carol"], "once for each"
    assert site.states(job)[client.host.name] == "waiting"
    ledger = client.pcmsvc("ledger").stdout
    assert all(f"as {user}" in ledger for user in ("alice", "bob", "carol"))
    assert "failed for bob" in client.pcmsvc("why", job).stdout.lower()


def test_a_users_program_reaches_nothing_of_the_services(site: Site, client: Client, desk: Desk) -> None:
    service = "w=$(systemctl show -P MainPID pcmsvc)"
    attempts = [
        ("read the state", "cat /var/lib/pcm/state.db"),
        ("read the key", "cat /var/lib/pcm/identity.pem"),
        ("list the state", "ls /var/lib/pcm"),
        ("list staging", "ls /var/lib/pcm/staging"),
        ("list outputs", "ls /var/lib/pcm/runs"),
        ("read its own output", "cat /var/lib/pcm/runs/$PCM_RUN_ID/output"),
        ("enter the store", "ls /var/lib/pcm/store"),
        ("make a file beside its program", "touch $PCM_PACKAGE_DIRECTORY/new"),
        ("change its program", "sh -c 'echo x >>$PCM_PACKAGE_DIRECTORY/setup'"),
        ("remove its program", "rm -f $PCM_PACKAGE_DIRECTORY/setup"),
        ("make a folder in staging", "mkdir /var/lib/pcm/staging/mine"),
        ("link into staging", "ln -s /etc/passwd /var/lib/pcm/staging/link"),
        ("give its program a second name", "ln $PCM_PACKAGE_DIRECTORY/setup /var/tmp/second"),
        ("read another user's package", "cat /var/lib/pcm/staging/other/setup"),
        ("enter another user's package", "ls /var/lib/pcm/staging/other"),
        ("change the configuration", "touch /etc/pcm/intruder"),
        ("open the work lock", "sh -c 'exec 3<>/run/pcm/pcmsvc.lock'"),
        ("read the work lock", "cat /run/pcm/pcmsvc.lock"),
        ("remove the socket", "rm -f /run/pcm/pcmsvc.sock"),
        ("signal the service", "kill -0 $w"),
        ("read the service's memory", "head -c1 /proc/$w/mem"),
        ("read the service's environment", "cat /proc/$w/environ"),
        ("read the service's descriptors", "ls /proc/$w/fd"),
        ("stop the service", "systemctl --no-ask-password stop pcmsvc"),
        ("stop its own unit", "systemctl --no-ask-password stop pcm-run-$PCM_RUN_ID"),
        ("become root", "sudo -n true"),
        ("become root by su", "su -c true"),
        ("write for all", "touch /usr/bin/intruder"),
    ]
    lines = "".join(f"try {shlex.quote(name)} sh -c {shlex.quote(what)}\n" for name, what in attempts)
    probe = (
        f"#!/bin/sh\n{service}; export w\n{TRY}touch {PROOF}/probe.$(id -un).$PCM_RUN_ID\n"
        f"for i in $(seq 600); do test ! -e {PROOF}/go || break; sleep 0.05; done\n"
        f'{lines}try works true\necho "I am $(id -un), service $w"\n'
    )
    site.publish_described(DESCRIBED.format(name="probe", more="", run_as="user"), "probe", files={"setup": probe})
    desk.only("alice")
    job = site.order("probe")
    wait_for(lambda: _sync(client) and marks(client, "probe"), "the probe", NOTICED_S, client.log)
    (user,) = marks(client, "probe")
    other = "bob" if user != "bob" else "alice"
    client.host.python(
        "-c",
        "from pathlib import Path\nfrom pcm.service.machine.here import this_machine\n"
        f"machine = this_machine(); staged = machine.stage(Path('/var/lib/pcm/staging'), 'other', machine.account({other!r}))\n"
        f"Path(staged.path, 'setup').write_text('only for {other}')",
    )
    client.host.path(f"{PROOF}/go").touch()
    known = client.settle(job)
    (result,) = known["results"]
    told = result["output_tail"].splitlines()
    assert told[0] == "LEAK works", result["output_tail"]
    assert re.fullmatch(rf"I am {user}, service [1-9]\d*", told[1])
    assert result["exit_code"] == 0
    assert client.host.shell("systemctl is-active pcmsvc") == "active\n"


def _sync(client: Client) -> bool:
    client.pcmsvc("sync")
    return True


def test_it_waits_while_somebody_gives_a_talk(site: Site, client: Client, desk: Desk) -> None:
    desk.only("alice", "bob")
    client.host.shell(
        "systemd-run -q --collect --unit=talk systemd-inhibit --what=idle --who=Slides --why=Talk sleep 600"
    )
    script = f"#!/bin/sh\ntouch {PROOF}/polite.$(id -un).$PCM_RUN_ID\n"
    site.publish_described(
        DESCRIBED.format(name="polite", more="", run_as="each_user"), "polite", files={"setup": script}
    )
    site.order("polite", "--defer-times", "3", "--defer-for", "2h")
    waiting = wait_until_known(client, "polite", "wait.busy")
    assert "a presentation" in waiting["reason"]
    assert marks(client, "polite") == []
    client.host.shell("systemctl stop talk")
    wait_for(
        lambda: _sync(client) and marks(client, "polite") == ["alice", "bob"],
        "the talk is over",
        NOTICED_S,
        client.log,
    )
