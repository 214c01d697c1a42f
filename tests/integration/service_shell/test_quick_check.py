"""A check that rests on the one before: quick when nothing can be due, whole at the least doubt."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from pcm.logon.app import LogonApp, create_app
from pcm.logon.folder import LogonFolder
from pcm.logon.folder_keys import FolderKeys
from pcm.logon.wakes import Wakes
from pcm.service import inbox, quick_check, rest
from pcm.service.enrolment import install
from pcm.service.identity import load_identity
from pcm.service.machine import resident
from pcm.service.machine.interface import Limits
from pcm.service.places import find_places
from pcm.service.rest_rules import SIGN_EVERY_S
from pcm.service.state import State
from tests.asgi_server import free_port, served
from tests.integration.service_shell.http_site import HttpSite, Wire, counting
from tests.integration.service_shell.quick import check, note_of, until_quick
from tests.integration.service_shell.static_site import Client, StaticSite
from tests.unit.trust.simulated import utc_now


@pytest.fixture
def http(site: StaticSite, client: Client) -> Iterator[HttpSite]:
    """A logon server with waiting places over the site's folder, and a client that has nothing to do."""
    folder = LogonFolder(site.logon_folder)
    port, public = free_port(), free_port()
    served_site = HttpSite(f"http://127.0.0.1:{public}/logon", Wire(), folder)
    folder.write_key(client.client_id, load_identity(client.places.identity).public_pem().encode())
    install(client.places, site.configuration(logon=(served_site.url,)))
    site.order(client.client_id, [], poll_after_s=1800)
    wakes = Wakes(folder.root / "clients", look_s=0.2)
    app = LogonApp(
        folder,
        served_site.url,
        FolderKeys(folder),
        report_sink=served_site.take_report,
        wakes=wakes,
    )
    with served(create_app(app), port), counting(public, port, served_site.wire):
        until_quick(client)
        yield served_site
        wakes.close()


def test_what_is_said_twice_is_said_alike() -> None:
    """The quick check must not load what these stand in."""
    assert quick_check.folders("/home") == tuple(map(str, find_places(Path("/home"))[1:3]))
    assert quick_check.folders(None) == tuple(map(str, find_places(None)[1:3]))
    assert (quick_check.LAST_CONTACT, quick_check.LAST_CHECK) == (inbox.LAST_CONTACT, inbox.LAST_CHECK)
    assert tuple(Limits()) == resident.LIMITS
    assert SIGN_EVERY_S / 2 < rest.SLACK_S < 300


def test_an_idle_check_asks_once_changes_no_database_and_leaves_a_connection(client: Client, http: HttpSite) -> None:
    database = client.places.database.stat()
    http.wire.reset()
    done = check(client)
    assert (done.code, done.whole, done.says(b"contact"), done.says(b"news")) == (0, False, True, False)
    assert done.pause is not None
    assert 1800 * 0.84 < done.pause < 1800 * 1.16
    assert http.wire.requests == 1  # to wait is to ask
    assert http.wire.size < 1024
    assert done.wake_s == 14_400
    assert not done.stirs_within(0.3)
    after = client.places.database.stat()
    assert (database.st_mtime_ns, database.st_ino) == (after.st_mtime_ns, after.st_ino)
    done.close()


def test_a_server_that_refuses_is_looked_at_whole(client: Client, http: HttpSite) -> None:
    note = rest.read_rest(str(note_of(client)))
    assert note is not None
    note.park = note.park.replace("/wake", "/elsewhere")
    note_of(client).write_bytes(note.encode())
    http.wire.reset()
    done = check(client)
    assert (done.whole, done.code, done.says(b"contact")) == (True, 0, True)  # 401: it was signed for another place
    done.close()


def test_without_a_supervisor_nobody_waits(client: Client, http: HttpSite) -> None:
    http.wire.reset()
    assert client.worker_check().returncode == 0
    assert b"/wake" not in http.wire.seen


def test_it_notes_that_it_was_there(client: Client, http: HttpSite) -> None:
    before = client.places.state.joinpath("last-check").stat().st_mtime_ns
    check(client).close()
    for name in ("last-check", "last-contact"):
        assert client.places.state.joinpath(name).stat().st_mtime_ns > before


def test_news_stir_the_connection_and_are_taken_in_whole(
    site: StaticSite, client: Client, http: HttpSite, marker: Path
) -> None:
    waiting = check(client)
    site.order(client.client_id, [client.mandatory(site.package(marker))], poll_after_s=1800)
    assert waiting.stirs_within(3)
    waiting.close()
    done = check(client)
    assert (done.whole, done.says(b"news")) == (True, True)
    assert marker.read_text() == "installed\n"
    done.close()
    until_quick(client)


def test_q163488_a_deadline_ends_the_rest(site: StaticSite, client: Client, http: HttpSite, marker: Path) -> None:
    soon = utc_now() + timedelta(seconds=6)
    site.order(client.client_id, [client.mandatory(site.package(marker), mandatory_after=soon)], poll_after_s=1800)
    done = check(client)
    done.close()
    assert done.pause is not None
    assert done.pause <= 8
    while utc_now() < soon + timedelta(seconds=1):
        check(client).close()
        time.sleep(0.2)
    check(client).close()
    assert marker.read_text() == "installed\n"


def touch_database(client: Client) -> None:
    with State.open(client.places.state, utc_now()) as state:
        state.set_meta("somebody", "was here")


def leave_package(client: Client) -> None:
    client.places.staging.joinpath("left").mkdir()


def new_key(client: Client) -> None:
    client.places.new_identity.write_bytes(b"")
    client.places.new_identity.chmod(0o600)


def damage(client: Client) -> None:
    note = note_of(client)
    note.write_bytes(note.read_bytes()[:-10])


def let_others_read(client: Client) -> None:
    note_of(client).chmod(0o644)


def put_link(client: Client) -> None:
    note = note_of(client)
    note.rename(note.with_name("elsewhere"))
    note.symlink_to("elsewhere")


@pytest.mark.parametrize(
    "change",
    [
        touch_database,
        leave_package,
        new_key,
        damage,
        let_others_read,
        put_link,
        lambda client: client.places.configuration.touch(),
        lambda client: client.places.packages_root.touch(),
        lambda client: client.places.identity.touch(),
        lambda client: client.places.state.joinpath("floors.json").unlink(),
        lambda client: client.places.state.joinpath("state.db-wal").write_bytes(b"left by somebody who died"),
        lambda client: client.places.state.joinpath("state.db.suspect").touch(),
        lambda client: client.places.runs.chmod(0o750),
        lambda client: note_of(client).unlink(),
    ],
)
def test_the_least_difference_makes_it_look_at_everything(
    client: Client, http: HttpSite, change: Callable[[Client], None]
) -> None:
    change(client)
    done = check(client)
    assert done.whole
    done.close()


@pytest.mark.needs("root")
def test_q181118_a_folder_that_others_can_write_to_is_noticed_as_always(client: Client, http: HttpSite) -> None:
    client.places.config.chmod(0o777)
    done = check(client)
    assert (done.whole, done.code) == (True, 1)
    assert "machine.unprotected" in done.errors
    assert not done.says(b"contact")


@pytest.mark.needs("root")
def test_a_note_that_somebody_else_wrote_is_none(client: Client, http: HttpSite) -> None:
    os.chown(note_of(client), 65534, 65534)
    done = check(client)
    assert done.whole
    done.close()


def test_two_at_once_do_not_work_at_once(client: Client, http: HttpSite) -> None:
    lock = resident.try_lock(str(client.places.work_lock))
    assert lock is not None
    done = check(client)
    assert (done.code, done.line) == (6, b"")
    os.close(lock)


def test_q191293_without_a_server_the_whole_check_goes_on(client: Client, http: HttpSite, site: StaticSite) -> None:
    note = note_of(client).read_bytes()
    install(client.places, site.configuration(logon=("http://127.0.0.1:9/logon",)))
    done = check(client)
    assert (done.whole, done.code, done.says(b"contact")) == (True, 0, False)
    assert done.parked is None
    assert not note_of(client).exists() or note_of(client).read_bytes() != note


def test_q230242_a_refused_client_is_whole_at_once_and_then_quiet(client: Client, http: HttpSite) -> None:
    http.folder.key_path(client.client_id).unlink()
    http.wire.reset()
    for _ in range(4):
        done = check(client)
        assert done.whole
        assert not done.says(b"contact")
    assert http.wire.requests <= 2  # the quick question and the whole check's, then none
    assert "transfer.refused" in client.refusals()


def test_a_wrong_clock_is_never_quick(client: Client, http: HttpSite) -> None:
    note = rest.read_rest(str(note_of(client)))
    assert note is not None
    now = time.time()
    assert rest.holds(note, now)
    assert not rest.holds(note, now - 3600)
    assert not rest.holds(note, note.until)
    assert rest.request_of(note, note.polls, note.poll, now)
    assert not rest.request_of(note, note.polls, note.poll, now - 3600)  # no server would take it


def test_after_a_restart_of_the_computer_it_is_never_quick(client: Client, http: HttpSite) -> None:
    note = rest.read_rest(str(note_of(client)))
    assert note is not None
    note.boot = "another"
    assert not rest.holds(note, time.time())


def test_signatures_cover_the_whole_rest(client: Client, http: HttpSite) -> None:
    note = rest.read_rest(str(note_of(client)))
    assert note is not None
    for at in range(note.written, note.until, 60):
        assert rest.request_of(note, note.polls, note.poll, at)
        assert rest.request_of(note, note.parks, note.park, at)
    assert note.until <= note.written + 6 * 3600 + 1


@pytest.mark.needs("users")
def test_the_glance_has_no_rights(client: Client, http: HttpSite) -> None:
    """Held up by a server that does not answer, the process is looked at."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        note = rest.read_rest(str(note_of(client)))
        assert note is not None
        note.port = silent.getsockname()[1]
        note_of(client).write_bytes(note.encode())
        thread = threading.Thread(target=lambda: check(client).close())
        thread.start()
        silent.settimeout(20)
        connection, _ = silent.accept()
        with connection:
            connection.recv(1000)
            [glance] = children_named("pcm.transport.glance", str(client.home))
            told = dict(
                line.split(":\t", 1)
                for line in Path(f"/proc/{glance}/status").read_text().splitlines()
                if ":\t" in line
            )
            limits = Path(f"/proc/{glance}/limits").read_text()
        thread.join()
    assert set(told["Uid"].split()) == {str(note.account[0])} != {"0"}
    assert told["Groups"].strip() == ""
    assert (told["NoNewPrivs"], told["Seccomp"]) == ("1", "2")
    assert int(told["CapEff"], 16) == int(told["CapPrm"], 16) == int(told["CapInh"], 16) == 0
    assert "Max file size             0" in limits
    assert "Max processes             0" in limits


def children_named(module: str, of: str) -> list[int]:
    """Processes that run this module, started by one that has `of` in its command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
            theirs = Path(f"/proc/{parent}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if module.encode() in words and of.encode() in theirs:
            found.append(int(path.name))
    return found


def test_it_loads_next_to_nothing() -> None:
    code = "import sys; sys.path[:] = sys.argv[1].split(':'); import pcm.service.quick_check; print(*sys.modules)"
    path = ":".join(entry for entry in sys.path if entry.startswith("/"))
    told = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, path], check=True, capture_output=True, text=True
    ).stdout.split()
    dear = {
        "cryptography", "ctypes", "enum", "json", "msgspec", "pathlib", "re", "signal", "socket", "sqlite3", "ssl", "subprocess",
        "typing", "datetime", "_ssl",
    }  # fmt: skip
    assert dear.isdisjoint(told)
