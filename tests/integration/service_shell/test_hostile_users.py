"""Somebody who sits at the computer and means harm: whatever is sent, however much of it, nobody gains and nobody else waits."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pcm.model.errors import RequestError, TransferError
from pcm.model.instruction import Deferral
from pcm.model.program import Program
from pcm.protocol.local import Items, LocalRequest, Status
from pcm.service.enrolment import install
from pcm.service.local_client import ask
from tests.integration.service_shell.people import ANNA, BEN, Line, ask_as, being, connect
from tests.integration.service_shell.static_site import Client, StaticSite
from tests.integration.service_shell.test_supervisor import Resident
from tests.unit.trust.simulated import utc_now

pytestmark = pytest.mark.needs("root")
WITHIN_S = 5.0  # one second on a computer that does nothing else; tests share theirs
FREE = Program(argv=("setup.sh",), user_requestable=True)


@pytest.fixture
def order(site: StaticSite, client: Client, marker: Path) -> Any:
    """An optional program for everybody."""
    made = client.mandatory(site.package(marker), purpose="optional", mandatory_after=None)
    site.order(client.client_id, [made], poll_after_s=3600)
    client.once()
    return made


@pytest.fixture
def resident(client: Client, order: Any) -> Iterator[Resident]:
    running = Resident(client)
    yield running
    running.stop()


def others_are_served(resident: Resident) -> None:
    """The administrator and another user get their answers."""
    for user_id in (0, BEN):
        began = time.monotonic()
        assert ask_as(resident, user_id, "list")["answer"] == "items"
        assert time.monotonic() - began < WITHIN_S


def waiting(resident: Resident) -> None:
    """Everything that was started for somebody has ended."""
    path = Path(f"/proc/{resident.process.pid}/task/{resident.process.pid}/children")
    resident.wait_until(lambda: not path.read_text().strip())


def descriptors(resident: Resident) -> int:
    return len(list(Path(f"/proc/{resident.process.pid}/fd").iterdir()))


def test_a_flood_costs_only_who_floods(resident: Resident) -> None:
    waiting(resident)
    before, stop, told = descriptors(resident), threading.Event(), []

    def flood() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError), contextlib.closing(connect(resident, ANNA)) as connection:
                connection.sendall(b'{"verb":"list"}\n')
                connection.settimeout(0.05)
                told.append(connection.recv(100))

    flooding = [threading.Thread(target=flood) for _ in range(4)]
    for thread in flooding:
        thread.start()
    try:
        for _ in range(5):
            others_are_served(resident)
    finally:
        stop.set()
        for thread in flooding:
            thread.join(30)
    assert sum(b"local.busy" in each for each in told) > 20
    others_are_served(resident)
    waiting(resident)
    assert descriptors(resident) <= before + 1


@pytest.mark.parametrize(
    "sent",
    [b"", b"{", b'{"verb":"wat', b'{"verb":"list"}', b"\xff" * 100, b"\0" * 4096],
    ids=["nothing", "a brace", "half a word", "no line feed", "rubbish", "zeros"],
)
def test_half_lines_hold_nobody_up(resident: Resident, sent: bytes) -> None:
    lines = [Line(resident, ANNA, sent) for _ in range(4)]
    others_are_served(resident)
    for line in lines:
        line.close()


def test_whoever_never_reads_holds_nobody_up(resident: Resident) -> None:
    """Neither an answer nor what a watcher is told; the processes that wait for them end by themselves."""
    lines = [Line(resident, user_id, LocalRequest("watch")) for user_id in (ANNA, ANNA, 65534, 65534)]
    lines += [Line(resident, ANNA, b'{"verb":"ledger"}\n') for _ in range(2)]
    for _ in range(20):
        assert ask_as(resident, 0, "pause")["answer"] == "accepted"
        assert ask_as(resident, 0, "resume")["answer"] == "accepted"
    others_are_served(resident)
    for line in lines:
        line.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes(8))
        line.close()
    waiting(resident)


@pytest.mark.parametrize("verb", ["run", "cancel", "defer", "details", "why"])
def test_forged_ids_find_nothing(resident: Resident, order: Any, verb: str) -> None:
    for wanted in ("../../etc/shadow", order.id + "x", order.id[:-1], "%", "*", "' OR 1=1 --", "\u202e", "x" * 64):
        assert ask_as(resident, ANNA, verb, wanted)["code"] == "not_found"
    for line in (b'{"verb":"run","id":1}', b'{"verb":"run","id":["a"]}', b'{"verb":"run","id":""}', b'{"verb":"run"}'):
        rude = Line(resident, ANNA, line + b"\n")
        assert rude.read()["code"].startswith("protocol.")
        rude.close()


def test_what_belongs_to_administrators_stays_theirs(resident: Resident, order: Any) -> None:
    for verb in ("sync", "pause", "resume"):
        assert ask_as(resident, ANNA, verb)["code"] == "not_allowed"
    for verb in ("restart", "postpone_restart"):
        assert ask_as(resident, ANNA, verb)["code"] in ("not_found", "not_allowed")
    forged = Line(resident, ANNA, b'{"verb":"pause","user_id":0}\n')
    assert forged.read()["code"] == "protocol.malformed"
    forged.close()


def test_one_user_neither_takes_back_nor_takes_over_what_another_asked_for(resident: Resident, order: Any) -> None:
    assert ask_as(resident, 0, "pause")["answer"] == "accepted"  # so that it stays asked for
    assert ask_as(resident, ANNA, "run", order.id)["answer"] == "accepted"
    assert ask_as(resident, BEN, "cancel", order.id)["code"] == "not_allowed"
    assert "already by somebody else" in ask_as(resident, BEN, "run", order.id)["message"]
    assert ask_as(resident, BEN, "cancel", order.id)["code"] == "not_allowed"
    [seen] = ask_as(resident, BEN, "list")["items"]
    assert (seen["requested_by"], seen.get("can_cancel", False)) == ("daemon", False)
    assert ask_as(resident, ANNA, "list")["items"][0]["can_cancel"]
    assert ask_as(resident, ANNA, "cancel", order.id)["answer"] == "accepted"
    assert "requested_by" not in ask_as(resident, ANNA, "list")["items"][0]
    assert ask_as(resident, ANNA, "cancel", order.id)["code"] == "not_allowed"


def test_one_user_does_not_see_what_anothers_program_wrote(
    resident: Resident, site: StaticSite, client: Client, marker: Path
) -> None:
    secret = Program(argv=("/bin/sh", "-c", "echo the secret; exit 7"), user_requestable=True)
    manifest = site.package(marker, name="chatty", release=1, files=(), programs={"install": secret})
    order = client.mandatory(manifest, number=2, purpose="optional", mandatory_after=None)
    site.order(client.client_id, [order], poll_after_s=3600)
    resident.ask("sync")
    resident.wait_until(lambda: client.items().get("chatty", {}).get("can_run"))
    assert ask_as(resident, ANNA, "run", order.id)["answer"] == "accepted"
    resident.wait_until(lambda: client.items()["chatty"]["state"] == "failed")
    assert "the secret" in ask_as(resident, ANNA, "details", order.id)["output_tail"]
    assert "output_tail" not in ask_as(resident, BEN, "details", order.id)
    ask_as(resident, 0, "pause")
    assert ask_as(resident, BEN, "run", order.id)["answer"] == "accepted"
    assert "output_tail" not in ask_as(resident, BEN, "details", order.id), "asking again shows nobody an earlier run"


def test_nobody_postpones_beyond_the_budget(resident: Resident, site: StaticSite, client: Client, marker: Path) -> None:
    due = utc_now() + timedelta(hours=1)
    work = client.mandatory(
        site.package(marker, name="work", release=1), number=2, mandatory_after=due, deferral=Deferral(2, 7200)
    )
    site.order(client.client_id, [work], poll_after_s=3600)
    resident.ask("sync")
    resident.wait_until(lambda: "work" in client.items())
    waiting(resident)
    far = utc_now() + timedelta(days=900)
    granted = ask_as(resident, ANNA, "defer", work.id, until=far)["until"]
    assert granted <= (due + timedelta(hours=2)).isoformat().replace("+00:00", "Z")
    assert ask_as(resident, BEN, "defer", work.id, until=far)["answer"] == "accepted"
    for user_id in (ANNA, BEN, ANNA):
        assert ask_as(resident, user_id, "defer", work.id, until=far)["code"] == "not_allowed"
    past = utc_now() - timedelta(days=1)
    assert ask_as(resident, ANNA, "defer", work.id, until=past)["code"] == "not_allowed"


def test_of_asking_and_taking_back_at_once_exactly_one_comes_first(
    resident: Resident, order: Any, client: Client, marker: Path
) -> None:
    """Whatever was answered last is so: taken back and not run, or run and not to be taken back."""
    for _ in range(6):
        if ask_as(resident, 0, "run", order.id)["answer"] != "accepted":
            break
        answer = ask_as(resident, 0, "cancel", order.id)
        waiting(resident)
        if answer["answer"] == "accepted":
            assert not marker.exists()
            assert client.items()["viewer"]["state"] == "waiting"
        else:
            assert answer["code"] == "not_allowed"
            resident.wait_until(marker.exists)
            break
    assert client.answer("ledger")["total"] == int(marker.exists())


def test_q173073_q231378_the_application_asks_and_the_service_alone_runs(
    resident: Resident, order: Any, client: Client, marker: Path
) -> None:
    """Five users press the same button at the same time, twice: it runs once, and is not offered again."""
    answers: list[Any] = []

    def press(user_id: int) -> None:
        answers.extend(ask_as(resident, user_id, "run", order.id) for _ in range(2))

    pressing = [threading.Thread(target=press, args=(user_id,)) for user_id in (ANNA, BEN, 3, 4, 5)]
    for thread in pressing:
        thread.start()
    for thread in pressing:
        thread.join(60)
    resident.wait_until(marker.exists)
    waiting(resident)
    assert marker.read_text() == "installed\n"
    assert {each["answer"] for each in answers} <= {"accepted", "error"}
    assert client.answer("ledger")["total"] == 1
    [item] = ask_as(resident, ANNA, "list")["items"]
    assert not item.get("can_run", False)
    assert ask_as(resident, ANNA, "run", order.id)["code"] == "not_allowed"


def test_q160853_no_screen_that_nobody_looks_at_holds_work_up(
    resident: Resident, site: StaticSite, client: Client, marker: Path
) -> None:
    """Watchers that never read, an application that was stopped while it waits: mandatory work begins and ends all the same."""
    lines = [Line(resident, user_id, LocalRequest("watch")) for user_id in (ANNA, BEN)]
    command = [sys.executable, "-m", "pcm.app.main", "--home", str(client.home), "watch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as stopped:
        time.sleep(0.5)
        stopped.send_signal(19)  # SIGSTOP: it will never read again
        work = client.mandatory(site.package(marker, name="work", release=1), number=2)
        site.order(client.client_id, [work], poll_after_s=3600)
        resident.ask("sync")
        resident.wait_until(marker.exists)
        resident.wait_until(lambda: client.items()["work"]["state"] == "succeeded")
        stopped.kill()
    for line in lines:
        line.close()


def test_q200336_a_dead_server_freezes_no_screen(resident: Resident, client: Client, site: StaticSite) -> None:
    """The logon server takes the connection and never answers: the check waits for it, the application does not."""
    with socket.create_server(("127.0.0.1", 0)) as dead:
        install(client.places, site.configuration(logon=(f"http://127.0.0.1:{dead.getsockname()[1]}/logon",)))
        resident.ask("sync")
        dead.settimeout(20)
        connection, _ = dead.accept()
        with connection:
            for verb in ("list", "status", "ledger"):
                began = time.monotonic()
                assert ask_as(resident, ANNA, verb)["answer"] != "error"
                assert time.monotonic() - began < WITHIN_S
            watching = Line(resident, ANNA, LocalRequest("watch"))
            assert watching.read()["answer"] == "items"
            watching.close()


def listen_as(user_id: int, path: Path) -> socket.socket:
    """Somebody else's socket at that path, as they would leave it."""
    path.parent.chmod(0o777)
    listener = socket.socket(socket.AF_UNIX)
    with being(user_id):
        listener.bind(str(path))
        listener.listen()
    return listener


@pytest.mark.parametrize("linked", [False, True], ids=["in its place", "behind a link"])
def test_whoever_plays_the_service_is_told_nothing(tmp_path: Path, linked: bool) -> None:
    folder = Path(f"/tmp/pcm-impostor-{os.getpid()}")
    (folder / "run").mkdir(parents=True)
    path = folder / "run" / "pcmsvc.sock"
    try:
        with listen_as(ANNA, path) as listener:
            if linked:
                path = tmp_path / "pcmsvc.sock"
                path.symlink_to(folder / "run" / "pcmsvc.sock")
            with pytest.raises(TransferError) as refused:
                ask(path, LocalRequest("list"))
            assert refused.value.code == "local.impostor"
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(100) == b""
    finally:
        (folder / "run" / "pcmsvc.sock").unlink()
        (folder / "run").rmdir()
        folder.rmdir()


def test_a_link_leads_only_to_the_service(resident: Resident, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(resident.client.places.socket)
    assert isinstance(ask(link, LocalRequest("status")), Status)
    assert isinstance(ask(resident.client.places.socket, LocalRequest("list")), Items)
    with pytest.raises(RequestError):
        ask(link, LocalRequest("run", "nothing"))


def test_a_great_many_different_users_are_no_way_around(resident: Resident) -> None:
    lines = [Line(resident, user_id, b"") for user_id in range(20_000, 20_030)]
    began = time.monotonic()
    assert ask_as(resident, 0, "list")["answer"] == "items"
    assert time.monotonic() - began < WITHIN_S
    refused = 0
    for line in lines:
        line.connection.settimeout(0.05)
        with contextlib.suppress(OSError):
            answer = line.connection.recv(1000)
            refused += bool(answer) and json.loads(answer)["code"] == "local.busy"
        line.close()
    assert refused >= 10
    waiting(resident)
