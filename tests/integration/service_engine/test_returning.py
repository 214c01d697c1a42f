"""Health checks and the return to the last good version: real programs, through the real steps, and what is known afterwards."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from pcm.model.assignment import State as Stage
from pcm.model.detection import CommandDetection, Detection, FileDetection, Not
from pcm.model.errors import TransferError
from pcm.model.program import ExitCodes, Program
from pcm.service import recovery
from pcm.service.plan import Presence
from pcm.service.records import InstalledRelease, InstructionRecord
from pcm.service.runner import drain
from pcm.service.work import Needed
from tests.integration.service_engine.trivial import Client, Rebooted

Make = Callable[..., Client]
OLD = 3
"""The release that was there before; the ordered one is 4."""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes a client whose package `install` is looked at by `health` and returns by `undo`."""
    made: list[Client] = []

    def build(health: Detection | None = None, undo: str = "", script: str = "", **fields: object) -> Client:
        home = tmp_path / "home"
        done = FileDetection(path=str(home / "installed"))
        install = {
            "argv": ("setup", str(home)),
            "detect": done,
            "health": health or Not(of=done),
            "health_within_s": 1,
            "rollback_to": "undo",
        }
        back = f"echo x >> '{home}/undone'; rm -f '{home}/installed'; {undo or 'true'}"
        programs = {
            "install": Program(**install | fields),  # type: ignore[arg-type]
            "undo": Program(argv=("/bin/sh", "-c", back), detect=Not(of=done)),
        }
        options = {"setup": script.encode()} if script else {}
        client = Client(home, programs, **options)  # type: ignore[arg-type]
        made.append(client)
        return client

    yield build
    for client in made:
        client.close()


def only(client: Client) -> InstructionRecord:
    [record] = client.context.journal.records()
    return record


def ledger_states(client: Client) -> list[tuple[str, str]]:
    found = client.state.rows(
        "SELECT json_extract(body, '$.program'), json_extract(body, '$.state') FROM ledger ORDER BY seq"
    )
    return [(program, state) for program, state in found]


def was_here(client: Client, release: int = OLD, installed: int | None = OLD) -> InstalledRelease:
    row = InstalledRelease("trivial", release, 1, "0.9", installed, client.now())
    client.state.store_release(row)
    return row


def test_what_works_well_has_succeeded_and_says_so(make: Make) -> None:
    client = make(health=FileDetection(path="/bin/sh"))
    client.check(client.instruction())
    [run] = client.context.history.runs(only(client).id, 1)
    assert run.result is not None
    assert (only(client).state, run.result.healthy, client.counted("undone")) == (Stage.SUCCEEDED, True, 0)


def test_without_a_health_check_nothing_is_said_about_it(make: Make) -> None:
    client = Client(make().home)
    client.check(client.instruction())
    [run] = client.context.history.runs(only(client).id, 1)
    assert run.result is not None
    assert (run.result.detected, run.result.healthy) == (True, None)
    client.close()


def test_what_needs_a_while_is_given_it(make: Make, tmp_path: Path) -> None:
    well = tmp_path / "home" / "well"
    client = make(health=FileDetection(path=str(well)), health_within_s=20)
    waited: list[float] = []

    def pause(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            well.touch()

    object.__setattr__(client.context, "pause", pause)
    client.check(client.instruction())
    assert (only(client).state, client.counted("undone")) == (Stage.SUCCEEDED, 0)
    assert waited == [0.5, 1.0, 2.0]


def test_what_works_badly_returns_to_what_was_good(make: Make) -> None:
    client = make()
    before = was_here(client)
    client.check(client.instruction())
    record = only(client)
    assert (record.state, record.code) == (Stage.FAILED, "health.failed")
    assert "is there" in record.reason
    assert record.reason.endswith("[rollback.done]")
    assert (client.counted(), client.counted("undone"), (client.home / "installed").exists()) == (1, 1, False)
    assert client.state.releases()["trivial"] == before, "what was good before is what is here, and its floor"


def test_both_runs_are_told_to_the_site_and_stand_in_the_ledger(make: Make) -> None:
    client = make()
    client.check(client.instruction())
    first, second = client.context.history.runs(only(client).id, 1)
    assert (first.program, second.program, second.argv[:2]) == ("install", "undo", ("/bin/sh", "-c"))
    told = [outcome for _, outcome in client.context.journal.unreported() if outcome.result is not None]
    assert [(outcome.state, outcome.code, outcome.result) for outcome in told] == [
        (Stage.RUNNING, "health.failed", first.result),
        (Stage.FAILED, "health.failed", second.result),
    ]
    assert first.result is not None
    assert (first.result.exit_code, first.result.detected, first.result.healthy) == (0, True, False)
    assert ledger_states(client) == [("install", "failed"), ("undo", "succeeded")]


@pytest.mark.parametrize("undo", ["exit 9", 'touch "$PCM_PACKAGE_DIRECTORY/../../../installed"'])
def test_a_return_that_fails_says_so_and_what_is_here_is_what_detection_finds(make: Make, undo: str) -> None:
    client = make(undo=undo)
    was_here(client)
    client.check(client.instruction())
    record = only(client)
    assert (record.state, record.code, client.counted("undone")) == (Stage.FAILED, "health.failed", 1)
    assert record.reason.endswith("[rollback.failed]")
    here = client.state.releases()["trivial"]
    # the trivial package is release 1, and the newest that ever was here stays as the floor
    assert (here.release, here.installed) == (OLD, None if undo == "exit 9" else 1)


def test_without_a_way_back_the_order_has_failed_and_what_is_unhealthy_is_here(make: Make) -> None:
    client = make(rollback_to=None)
    client.check(client.instruction())
    record = only(client)
    assert (record.state, record.code, client.counted("undone")) == (Stage.FAILED, "health.failed", 0)
    assert client.state.releases()["trivial"].installed == 1
    assert ledger_states(client) == [("install", "failed")]


def test_a_later_order_does_not_take_what_is_unhealthy_for_done(make: Make) -> None:
    client = make(rollback_to=None)
    client.check(client.instruction())
    client.check(client.instruction(generation=2))
    assert (client.counted(), only(client).code) == (2, "health.failed")


def test_q190135_a_health_check_that_cannot_be_told_does_not_hold(make: Make) -> None:
    client = make(health=CommandDetection(["/bin/sh", "-c", "kill -9 $$"], "exit_zero"))
    client.check(client.instruction())
    assert only(client).reason.endswith("[rollback.done]")
    assert client.counted("undone") == 1


def test_a_program_that_failed_has_nothing_to_be_healthy(make: Make) -> None:
    client = make(script="#!/bin/sh\nexit 7\n")
    client.check(client.instruction())
    assert (only(client).state, only(client).code, client.counted("undone")) == (Stage.FAILED, "run.exit_code", 0)


def test_a_return_whose_files_do_not_come_is_tried_again_at_the_next_checks(make: Make) -> None:
    client = make()
    real = client.bring

    def breaks_after_the_first_run(needed: Needed) -> None:
        if client.counted():
            raise TransferError("No server answers.", code="transfer.unreachable")
        real(needed)

    object.__setattr__(client.context, "bring", breaks_after_the_first_run)
    losing = client.context.store

    class Forgetful:
        """A store whose disk is lost once the first program has run."""

        def __getattr__(self, name: str) -> object:
            return getattr(losing, name)

        def has(self, sha256: str, length: int) -> bool:
            return losing.has(sha256, length) and not client.counted()

    object.__setattr__(client.context, "store", Forgetful())
    client.check(client.instruction())
    record = only(client)
    assert (record.state, record.code, record.attempts) == (Stage.RUNNING, "health.failed", 1)
    made = client.check()
    assert client.counted("undone") == 0, "its back-off is not over"
    assert made.next_change(client.now()) == record.not_before, "the next check comes when it is"
    object.__setattr__(client.context, "store", losing)
    object.__setattr__(client.context, "bring", real)
    client.shift = timedelta(hours=1)
    client.check()
    assert (only(client).state, client.counted(), client.counted("undone")) == (Stage.FAILED, 1, 1)
    assert only(client).reason.endswith("[rollback.done]")


def test_what_asked_for_a_restart_is_looked_at_after_it_and_returns_then(make: Make, tmp_path: Path) -> None:
    script = '#!/bin/sh\necho x >> "$1/counter"\ntouch "$1/installed"\nexit 42\n'
    client = make(script=script, exit_codes=ExitCodes(restart=(42,)))
    before = was_here(client)
    client.check(client.instruction())
    assert (only(client).state, client.counted("undone")) == (Stage.RESTART_PENDING, 0)
    assert client.state.releases()["trivial"] == before, "nothing is good before it was looked at"
    object.__setattr__(client.context, "machine", Rebooted("another-boot"))
    recovery.reconcile(client.context)
    assert (only(client).state, only(client).code, client.counted("undone")) == (Stage.FAILED, "health.failed", 1)
    assert client.state.releases()["trivial"] == before


@pytest.mark.needs("users")
def test_a_users_program_returns_as_that_user(make: Make, tmp_path: Path) -> None:
    says = FileDetection(path=str(tmp_path / "never"))

    home = tmp_path / "home"
    programs = {
        "install": Program(
            argv=("/usr/bin/id", "-un"), run_as="user", health=says, health_within_s=1, rollback_to="undo"
        ),
        "undo": Program(argv=("/usr/bin/id", "-un"), run_as="user"),
    }
    client = Client(home, programs)
    client.take_in(client.instruction())
    drain(client.context, lambda _: replace(client.situation(), presence=Presence(("nobody",), "nobody")))
    first, second = client.context.history.runs(only(client).id, 1)
    assert first.result is not None
    assert second.result is not None
    assert (second.program, second.run_as, second.result.output_tail) == ("undo", "nobody", "nobody\n")
    assert only(client).reason.endswith("[rollback.done]")
    client.close()


def test_the_steps_of_a_return_are_journalled_under_its_own_run(make: Make) -> None:
    client = make()
    client.check(client.instruction())
    first, second = client.context.history.runs(only(client).id, 1)
    assert [step.step for step in client.context.history.steps(second.run) if step.phase == "begin"] == [
        "fetch",
        "stage",
        "run",
        "detect",
        "cleanup",
    ]
    details = {each.step: each.detail for each in client.context.history.steps(first.run) if each.phase == "end"}
    assert details["health"]["healthy"] is False
    assert details["rollback"] == {"to": "undo", "state": "failed"}
