"""`pcmapp watch`, and what stays to wait: lines that come over time, services that go away, and screens of any kind."""

import contextlib
import io
import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pcm.app import feed, main, watching
from pcm.app.feed import Feed
from pcm.model.errors import RequestError, TransferError
from pcm.protocol import local
from pcm.protocol.local import Changed, Items, Progress, Standing, Transfer
from tests.integration.app.test_terminal import ESCAPE, NOW, item

Line = local.Answer | None


class Teller:
    """A service that tells its watchers what the test gives it; None ends a connection. What else is asked gets the newest list."""

    def __init__(self, home: Path) -> None:
        self.path = home / "run" / local.SOCKET_NAME
        self.path.parent.mkdir(parents=True)
        self.first: local.Answer = Items(())
        self.told: queue.Queue[Line] = queue.Queue()
        self.asked: list[local.LocalRequest] = []
        self.watchers = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            with connection.makefile("rb") as lines:
                request = local.read_request(lines.readline())
            self.asked.append(request)
            if request.verb != "watch":
                accepted = local.Accepted(f"Noted: {request.verb}.")
                connection.sendall(local.write_answer(self.first if request.verb == "list" else accepted))
                return
            self.watchers += 1
            connection.sendall(local.write_answer(self.first))
            while (told := self.told.get()) is not None:
                connection.sendall(local.write_answer(told))

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Teller]:
    made = Teller(tmp_path / "home")
    yield made
    made.close()


@pytest.fixture
def heard(service: Teller) -> Iterator[Feed]:
    made = Feed(service.path)
    yield made
    made.close()


def states(known: Feed) -> dict[str, str]:
    return {each.package: each.state for each in known.items.items}


def standing_of(known: Feed) -> Standing:
    return known.items.standing


def test_what_is_told_becomes_what_is_known(service: Teller, heard: Feed) -> None:
    a, b = item("a", 1), item("b", 2)
    service.first = Items((a, b), Standing(hold="Wait."))
    heard.begin()
    assert heard.items == service.first
    service.told.put(Changed((item("a", 1, state="running"), item("c", 3)), (b.id,), Standing()))
    heard.update(5)
    assert states(heard) == {"a": "running", "c": "waiting"}
    assert heard.items.standing == Standing()
    transfer = Transfer(a.id, 1, 2)
    service.told.put(Progress(transfer))
    heard.update(5)
    assert standing_of(heard).transfer == transfer
    service.told.put(Progress(None))
    heard.update(5)
    assert standing_of(heard).transfer is None
    assert heard.update(0.05) is None


def test_a_service_that_ends_is_asked_again(service: Teller, heard: Feed) -> None:
    heard.begin()
    service.first = Items((item("new"),))
    service.told.put(None)
    end = time.monotonic() + 10
    while not heard.items.items and time.monotonic() < end:
        heard.update(0.1)
    assert states(heard) == {"new": "waiting"}
    assert (service.watchers, heard.away) == (2, None)


def test_a_service_that_stays_away_is_given_up(service: Teller, heard: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "PATIENCE_S", 0.3)
    heard.begin()
    service.close()
    service.path.unlink()
    service.told.put(None)
    with pytest.raises(TransferError) as gone:  # noqa: PT012 - how often it says nothing first is its own matter
        for _ in range(100):
            heard.update(0.05)
            assert not heard.items.items
    assert gone.value.code == "local.unreachable"
    assert heard.away is not None


def test_too_many_watchers_means_asking_now_and_then(
    service: Teller, heard: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "POLL_S", 0.01)
    monkeypatch.setattr(service, "_answer", _busy(service))
    heard.begin()
    heard.update(1)
    assert [request.verb for request in service.asked][:3] == ["watch", "list", "list"]
    assert states(heard) == {"polled": "waiting"}


def _busy(service: Teller) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            request = local.read_request(lines.readline())
            service.asked.append(request)
            busy = local.Fault("local.busy", "Enough.")
            connection.sendall(local.write_answer(busy if request.verb == "watch" else Items((item("polled"),))))

    return answer


def test_something_else_than_was_asked_ends_it(service: Teller, heard: Feed) -> None:
    heard.begin()
    service.told.put(local.Accepted("Surprise."))
    with pytest.raises(RequestError) as wrong:
        heard.update(5)
    assert wrong.value.code == "protocol.wrong_type"


def application(home: Path, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "pcm.app.main", "--home", str(home), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    )


def test_elsewhere_than_on_a_terminal_each_change_is_a_line(service: Teller) -> None:
    service.first = Items((item("old", 1, state="succeeded"), item("new", 2, purpose="mandatory")))
    with application(service.path.parent.parent, "watch") as process:
        assert process.stdout is not None
        assert "new 1.7: planned" in process.stdout.readline()
        service.told.put(Changed((item("new", 2, state="running", reason=f"{ESCAPE}It runs."),)))
        line = process.stdout.readline()
        assert "new 1.7: running" in line
        assert "\x1b" not in line
        service.told.put(Progress(Transfer("x", 1, 2)))
        service.told.put(Changed((item("new", 2, state="failed", reason="Exit code 7."),)))
        assert "new 1.7: failed: Exit code 7." in process.stdout.readline()
        process.send_signal(2)
        assert process.wait(10) == 0, "that is how one leaves it"


def test_programs_get_one_document_for_each_change(service: Teller) -> None:
    service.first = Items((item("a"),))
    with application(service.path.parent.parent, "watch", "--json") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["items"][0]["package"] == "a"
        service.told.put(Changed((), (item("a").id,), Standing(hold="Wait.")))
        told = json.loads(process.stdout.readline())
        assert (told["answer"], told["gone"], told["standing"]["hold"]) == ("changed", [item("a").id], "Wait.")
        process.kill()


class Terminal(io.StringIO):
    """A screen."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def frames(service: Teller, monkeypatch: pytest.MonkeyPatch, *arguments: str, seconds: float = 1.0) -> tuple[str, int]:
    """What the application draws until it has nothing more to wait for, or Ctrl-C."""
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(watching, "FRAME_S", 0.05)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "12")
    end = time.monotonic() + seconds
    update = Feed.update

    def until_then(known: Feed, left: float) -> local.Answer | None:
        if time.monotonic() > end:
            raise KeyboardInterrupt
        return update(known, left)

    monkeypatch.setattr(Feed, "update", until_then)
    code = main.run(["--home", str(service.path.parent.parent), *arguments])
    return screen.getvalue(), code


def test_on_a_terminal_the_board_is_drawn_over_itself_and_clocks_run(
    service: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    due = datetime.now(UTC) + timedelta(seconds=100)
    service.first = Items((item("soon", purpose="mandatory", state="asked", announced=NOW, not_before=due),))
    drawn, code = frames(service, monkeypatch, "watch", seconds=2.3)
    assert code == 0
    assert {"starts in 1:38", "starts in 1:39"} <= {drawn[at : at + 14] for at in range(len(drawn))}
    assert drawn.count("\x1b[J") > 2
    assert drawn.index("\x1b[?25l") < drawn.rindex("\x1b[?25h"), "the cursor is there again"


def test_a_board_that_is_longer_than_the_screen_says_so(service: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    service.first = Items(tuple(item(f"p{number}", number, can_run=True) for number in range(40)))
    drawn, _ = frames(service, monkeypatch, "watch", seconds=0.3)
    last = drawn.split("\x1b[J")[-1]
    assert last.count("\n") <= 12
    assert "more lines: pcmapp list" in last


def test_waiting_for_an_installation_draws_its_bar(service: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    offered = item("jq", can_run=True)
    service.first = Items((offered,))
    coming = item("jq", state="downloading", requested=NOW)
    service.told.put(Changed((coming,), standing=Standing(transfer=Transfer(coming.id, 1_500_000, 3_000_000))))
    service.told.put(Changed((item("jq", state="running", attempts=1),)))
    service.told.put(Changed((item("jq", state="succeeded", attempts=1),)))
    drawn, code = frames(service, monkeypatch, "install", "jq", "--wait", seconds=20)
    assert code == 0
    for part in ("Noted: run.", "downloading", " 50%  1.5 MB of 3.0 MB", "running", "done"):
        assert part in drawn


def test_what_is_withdrawn_while_one_waits_is_told(
    service: Teller, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    service.first = Items((item("jq", can_run=True),))
    service.told.put(Changed((), (item("jq").id,)))
    _, code = frames(service, monkeypatch, "install", "jq", "--wait", seconds=20)
    assert code == 3
    assert "withdrawn" in capsys.readouterr().err


def test_taking_back_and_restarting_send_their_verbs(service: Teller, capsys: pytest.CaptureFixture[str]) -> None:
    home = str(service.path.parent.parent)
    service.first = Items(
        (item("jq", requested=NOW, can_cancel=True),),
        Standing(
            restart=local.Restart(
                ("linux 6.1",), "ask", "It needs one.", due=NOW + timedelta(hours=1), deferrals_left=2
            )
        ),
    )
    assert main.run(["--home", home, "cancel", "jq"]) == 0
    assert service.asked[-1] == local.LocalRequest("cancel", item("jq").id)
    assert main.run(["--home", home, "restart"]) == 0
    shown = capsys.readouterr().out
    assert "linux 6.1" in shown
    assert "2 times more" in shown
    assert json.loads(_said(capsys, ["--home", home, "restart", "--json"]))["policy"] == "ask"
    assert main.run(["--home", home, "restart", "--now"]) == 0
    assert service.asked[-1] == local.LocalRequest("restart")
    assert main.run(["--home", home, "restart", "--later", "+2h"]) == 0
    assert (service.asked[-1].verb, service.asked[-1].until is None) == ("postpone_restart", False)
    assert main.run(["--home", home, "restart", "--later"]) == 0
    assert service.asked[-1] == local.LocalRequest("postpone_restart")
    assert main.run(["--home", home, "restart", "--later", "whenever"]) == 2
    service.first = Items(())
    capsys.readouterr()
    assert "No restart is wanted" in _said(capsys, ["--home", home, "restart"])


def _said(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert main.run(arguments) == 0
    return capsys.readouterr().out


def test_a_name_that_is_nearly_right_is_hinted_at(service: Teller, capsys: pytest.CaptureFixture[str]) -> None:
    service.first = Items((item("libreoffice", 1), item("seven-zip", 2)))
    home = str(service.path.parent.parent)
    assert main.run(["--home", home, "show", "libre-office"]) == 3
    assert "Did you mean libreoffice?" in capsys.readouterr().err
    assert main.run(["--home", home, "show", "zip"]) == 3
    assert "Did you mean seven-zip?" in capsys.readouterr().err
    assert main.run(["--home", home, "show", "emacs"]) == 3
    assert "pcmapp list --all" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    script = _said(capsys, ["completion", shell])
    for verb in ("install", "postpone", "watch", "cancel", "restart"):
        assert verb in script
    assert "@" not in script.replace('"$@"', "")


def test_completion_in_bash_completes_commands_and_names(service: Teller, tmp_path: Path) -> None:
    hostile = item("$(touch owned)", 3, can_run=True)
    service.first = Items((item("jq", 1, can_run=True), item("jed", 2), hostile))
    program = tmp_path / "pcmapp"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m pcm.app.main --home {service.path.parent.parent} "$@"\n')
    program.chmod(0o755)
    script = f"""
source <({program} completion bash)
COMP_WORDS=(pcmapp inst); COMP_CWORD=1; _pcmapp; echo "${{COMPREPLY[@]}}"
COMP_WORDS=(pcmapp install j); COMP_CWORD=2; _pcmapp; echo "${{COMPREPLY[@]}}"
COMP_WORDS=(pcmapp install ""); COMP_CWORD=2; _pcmapp; echo "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(
        ["bash", "-c", script],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    assert done.stdout.split("\n")[:3] == ["install", "jq", "jq"]
    assert not (tmp_path / "owned").exists()


def test_q200336_the_application_moves_no_content_and_speaks_to_no_server() -> None:
    code = "import sys; import pcm.app.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert not {name for name in loaded if name.startswith(("pcm.transport", "pcm.content", "ssl", "http.", "asyncio"))}
