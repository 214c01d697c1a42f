"""`pcmapp` against a service's socket: each verb, and services that are absent, silent, lying or hostile."""

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from pcm.app import call, feed
from pcm.app.main import run
from pcm.protocol import local
from pcm.service import local_client

NOW = datetime.now(UTC)
ESCAPE = "\x1b]0;owned\x07\x1b[2J\u202e"


def item(name: str = "jq", number: int = 0, **fields: object) -> local.Item:
    given = {
        "id": f"j{number:010}.0123456789ab", "job": f"j{number:010}", "package": name, "version": "1.7", "program": "install",
        "purpose": "optional", "state": "waiting", "summary": "JSON in the shell",
    }  # fmt: skip
    return local.Item(**{**given, **fields})  # type: ignore[arg-type]


class Service:
    """A service's socket, with answers to choose."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / "run").mkdir(parents=True)
        self.items: tuple[local.Item, ...] = ()
        self.answers: dict[str, Callable[[local.LocalRequest], bytes]] = {}
        self.asked: list[local.LocalRequest] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(home / "run" / local.SOCKET_NAME))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                line = connection.makefile("rb").readline()
                request = local.read_request(line)
                self.asked.append(request)
                connection.sendall(self._answer(request))

    def _answer(self, request: local.LocalRequest) -> bytes:
        if request.verb in self.answers:
            return self.answers[request.verb](request)
        if request.verb == "list":
            return local.write_answer(local.Items(self.items))
        if request.verb == "watch":
            return local.write_answer(local.Fault("local.busy", "Enough watch already."))
        if request.verb in {"run", "defer", "cancel"}:
            return local.write_answer(local.Accepted(f"Noted: {request.verb}."))
        return local.write_answer(local.Fault("not_found", "nothing of the kind"))

    def close(self) -> None:
        with contextlib.suppress(OSError):  # closed already, by a test
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path / "home")
    yield made
    made.close()


@pytest.fixture
def app(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Calls the program; whatever it prints has no escape in it."""

    def called(*arguments: str) -> tuple[int, str, str]:
        code = run(["--home", str(tmp_path / "home"), *arguments])
        told = capsys.readouterr()
        assert not set("\x1b\x07\u202e\x9b") & set(told.out + told.err)
        assert "Traceback" not in told.err
        return code, told.out, told.err

    return called


App = Callable[..., tuple[int, str, str]]


def test_the_list_says_what_is_available_coming_and_done(service: Service, app: App) -> None:
    service.items = (
        item("jq", 1, can_run=True),
        item("tree", 2, purpose="mandatory", deadline=NOW + timedelta(hours=2), reason="The window opens at 22:00."),
        item("vim", 3, purpose="mandatory", state="succeeded", ended=NOW, changed=NOW),
        item("nano", 4, state="failed", ended=NOW - timedelta(days=90), changed=NOW - timedelta(days=90)),
    )
    code, out, _ = app("list")
    assert code == 0
    assert [line for line in out.splitlines() if line in {"Available", "Coming", "Done"}] == [
        "Coming",
        "Available",
        "Done",
    ]
    assert "jq 1.7" in out.partition("Available")[2].partition("Done")[0]
    assert "The window opens at 22:00." in out
    assert "nano" not in out
    assert "nano" in app("list", "--all")[1]
    assert [one["package"] for one in json.loads(app("list", "--json")[1])] == ["jq", "tree", "vim", "nano"]


def test_an_empty_list_is_said_in_words(service: Service, app: App) -> None:
    assert service.items == ()
    assert "Nothing now" in app("list")[1]
    assert "Nothing is available" in app("list", "--all")[1]


def test_install_asks_for_what_can_be_installed(service: Service, app: App) -> None:
    service.items = (item("jq", 1, state="succeeded"), item("jq", 2, can_run=True, version="1.8"))
    code, out, _ = app("install", "jq")
    assert (code, out.strip()) == (0, "Noted: run.")
    assert service.asked[-1] == local.LocalRequest("run", "j0000000002.0123456789ab")


def test_install_waits_until_it_is_over(service: Service, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "POLL_S", 0.01)
    states = iter(["failed", "running", "running", "succeeded"])

    def listed(_: local.LocalRequest) -> bytes:
        state = "failed" if not service.asked[1:] else next(states)
        attempts = 2 if state == "succeeded" else 1
        return local.write_answer(local.Items((item(state=state, attempts=attempts, reason=f"{ESCAPE}now {state}"),)))

    service.answers["list"] = listed
    code, out, _ = app("install", "jq", "--wait")
    assert code == 0
    assert [line.split(":")[0] for line in out.splitlines()] == ["Noted", "failed", "running", "done"]


def test_install_that_fails_ends_with_one(service: Service, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "POLL_S", 0.01)
    service.items = (item(state="refused"),)
    assert app("install", "jq", "--wait")[0] == 1


@pytest.mark.parametrize(("text", "given"), [(None, False), ("+2h", True), ("23:59", True)])
def test_postpone_sends_a_time(service: Service, app: App, text: str | None, given: bool) -> None:
    service.items = (item(purpose="mandatory", can_defer=True),)
    code, _, _ = app("postpone", "jq", *([text] if text else []))
    assert code == 0
    assert (service.asked[-1].until is not None) == given


def test_postpone_until_never_is_a_usage_mistake(service: Service, app: App) -> None:
    service.items = (item(),)
    code, _, err = app("postpone", "jq", "whenever")
    assert code == 2
    assert "18:30" in err
    assert not service.asked


def test_names_may_be_ids_jobs_packages_or_beginnings(service: Service, app: App) -> None:
    service.items = (item("jq", 1, can_run=True), item("tree", 2, can_run=True))
    for name in ("jq", "j0000000001", "j0000000001.0123456789ab", "j0000000001.01"):
        assert app("install", name)[0] == 0
        assert service.asked[-1].id == "j0000000001.0123456789ab"
    code, _, err = app("install", "emacs")
    assert code == 3
    assert "pcmapp list" in err
    assert app("install", "j0")[0] == 3, "too short to mean anything"


def test_of_several_an_act_names_none_and_a_question_the_newest(service: Service, app: App) -> None:
    service.items = (
        item("jq", 1, state="failed", changed=NOW - timedelta(days=2)), item("jq", 2, state="succeeded", changed=NOW),
    )  # fmt: skip
    code, _, err = app("install", "jq")
    assert code == 1
    assert "j0000000001.0123456789ab (jq 1.7)" in err
    service.answers["why"] = lambda request: local.write_answer(local.Why(request.id or "", "succeeded", ()))
    assert app("why", "jq")[0] == 0
    assert service.asked[-1].id == "j0000000002.0123456789ab"


def test_everything_about_one_of_them(service: Service, app: App) -> None:
    shown = item(
        state="failed", reason=f"It ended {ESCAPE} badly.", code="run.failed", exit_code=7, ended=NOW, attempts=2
    )
    service.items = (shown,)
    details = local.Details(shown, 3, 2, 1_500_000, ("setup", ESCAPE), "system", 60, f"first\n{ESCAPE}second\r\nthird")
    service.answers["details"] = lambda _: local.write_answer(details)
    code, out, _ = app("show", "jq")
    assert code == 0
    for part in ("exit code 7", "2 files, 1.5 MB", "run.failed", "  third", r"\x1b]0;owned\x07"):
        assert part in out
    assert json.loads(app("show", "jq", "--json")[1])["output_tail"] == details.output_tail


def test_why_shows_each_step_of_the_decision(service: Service, app: App) -> None:
    service.items = (item(),)
    lines = (
        local.WhyLine("target", f"It is meant {ESCAPE}."),
        local.WhyLine("window", "It is closed.", holds=False, code="wait.window", until=NOW),
    )
    service.answers["why"] = lambda _: local.write_answer(local.Why("x", "waiting", lines))
    out = app("why", "jq")[1]
    assert "✓ target" in out
    assert "✗ window" in out
    assert "[wait.window]" in out


def entry(seq: int, state: str = "succeeded") -> local.LedgerEntry:
    return local.LedgerEntry(
        seq,
        "ab" * 32,
        "0a" * 16,
        "i",
        "j0",
        1,
        "jq",
        "1.7",
        3,
        "install",
        ("dpkg", "-i", ESCAPE),
        "system",
        "m",
        "ab" * 32,
        NOW,
        NOW,
        state,
    )


def test_history_shows_what_ran_and_whether_it_was_changed(service: Service, app: App) -> None:
    ledger = local.Ledger((entry(1), entry(2, "failed")), 2, "ab" * 32)
    service.answers["ledger"] = lambda _: local.write_answer(ledger)
    code, out, _ = app("history")
    assert code == 0
    assert out.index("failed") < out.index("done"), "newest first"
    service.answers["ledger"] = lambda _: local.write_answer(local.Ledger(ledger.entries, 2, None, 2))
    code, out, _ = app("history")
    assert code == 1
    assert "Entry 2 was changed" in out
    service.answers["ledger"] = lambda _: local.write_answer(local.Ledger((), 0))
    assert "Nothing has run" in app("history")[1]


def test_history_tells_a_program_of_the_package_as_its_packager_wrote_it(service: Service, app: App) -> None:
    staged = msgspec.structs.replace(entry(1), argv=(f"/var/lib/pcm/staging/{'5c' * 16}/bin/setup", "--quiet"))
    elsewhere = msgspec.structs.replace(entry(2), argv=("/srv/staging/setup",))
    service.answers["ledger"] = lambda _: local.write_answer(local.Ledger((staged, elsewhere), 2, "ab" * 32))
    _, out, _ = app("history")
    assert " ./bin/setup --quiet\n" in out
    assert "/srv/staging/setup" in out


def test_status_says_whether_the_computer_is_managed(service: Service, app: App) -> None:
    refusals = (local.LastRefusal("trust.rollback", NOW, f"Old files {ESCAPE}.", "s", 3),)
    status = local.Status(
        enrolled=True, agent_version="0.1.0", site="hq", client_id="0f" * 16, unreported=2, refusals=refusals
    )
    service.answers["status"] = lambda _: local.write_answer(status)
    out = app("status")[1]
    assert "hq" in out
    assert "(3 times)" in out
    assert "[trust.rollback]" in out
    service.answers["status"] = lambda _: local.write_answer(local.Status(enrolled=False, agent_version="0.1.0"))
    assert "not managed" in app("status")[1]


@pytest.mark.parametrize(
    ("code", "exit_code"), [("not_allowed", 4), ("not_found", 3), ("local.busy", 1), ("request.state", 1)]
)
def test_what_the_service_refuses_is_told(service: Service, app: App, code: str, exit_code: int) -> None:
    service.items = (item(),)
    service.answers["run"] = lambda _: local.write_answer(local.Fault(code, f"No {ESCAPE}."))
    got, _, err = app("install", "jq")
    assert got == exit_code
    assert f"[{code}]" in err


def test_without_a_service_it_says_what_to_do(app: App) -> None:
    code, out, err = app("list")
    assert code == 5
    assert out == ""
    assert "is not running on this computer" in err
    assert "systemctl start pcmsvc" in err


def test_a_socket_that_nobody_serves_is_unreachable(service: Service, app: App) -> None:
    service.close()
    code, _, err = app("list")
    assert code == 5
    assert "local.unreachable" in err


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"", 5),
        (b"no line feed", 5),
        (b"not JSON\n", 1),
        (b'{"answer":"items"}\n', 1),
        (b'{"answer":"accepted","message":"x"}\n', 1),
        (b"[" * 1000 + b"\n", 1),
    ],
)
def test_answers_that_make_no_sense(service: Service, app: App, answer: bytes, code: int) -> None:
    service.answers["list"] = lambda _: answer
    got, out, _ = app("list")
    assert got == code
    assert out == ""


def test_a_silent_service_is_given_up(service: Service, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    ask, stop = local_client.ask, threading.Event()
    monkeypatch.setattr(call, "ask", lambda path, request: ask(path, request, 0.2))

    def silent(_: local.LocalRequest) -> bytes:
        stop.wait(5)
        return b""

    service.answers["list"] = silent
    code, _, _ = app("list")
    stop.set()
    assert code == 5


def test_of_several_that_are_done_none_is_asked_for_by_its_id(service: Service, app: App) -> None:
    done = [item("jq", number, version=f"1.{number}", state="succeeded", changed=NOW) for number in (1, 2)]
    service.items = tuple(done)
    code, _, err = app("install", "jq")
    assert code == 1
    assert "Nothing called 'jq' waits for that now: j0000000001.0123456789ab (jq 1.1): done; " in err
    assert {request.verb for request in service.asked} == {"list"}
    service.items = (item("jq", 1, can_run=True), item("jq", 2, can_run=True))
    code, _, err = app("install", "jq")
    assert code == 1
    assert "Several are called 'jq'" in err
