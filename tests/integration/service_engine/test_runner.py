"""Real programs through the real steps on the real machine: what runs, what does not, and what is left behind."""

import hashlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from pcm.model.assignment import State as Stage
from pcm.model.detection import FileDetection
from pcm.model.errors import MachineError, StoreError, TransferError, TrustError
from pcm.model.instruction import Notify
from pcm.model.program import ExitCodes, Program
from pcm.protocol.manifest import write_manifest
from pcm.service.journal import Journal
from pcm.service.machine.interface import Launch, RunReference
from pcm.service.machine.linux.computer import LinuxMachine
from pcm.service.plan import Action, Presence, Situation
from pcm.service.planner import plan
from pcm.service.records import InstalledRelease, InstructionRecord, StepRecord
from pcm.service.runner import STEPS, drain, run_one
from pcm.service.state import State
from pcm.service.work import Needed
from tests.integration.service_engine.trivial import Client

Make = Callable[..., Client]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes clients, each in a folder of its own, and closes them."""
    made: list[Client] = []

    def build(program: Program | None = None, setup: str | None = None, name: str = "home") -> Client:
        options = {} if setup is None else {"setup": setup.encode()}
        client = Client(tmp_path / name, None if program is None else {"install": program}, **options)  # type: ignore[arg-type]
        made.append(client)
        return client

    yield build
    for client in made:
        client.close()


def only(client: Client) -> InstructionRecord:
    [record] = client.context.journal.records()
    return record


def steps_of(client: Client) -> list[StepRecord]:
    [(run,)] = client.state.rows("SELECT DISTINCT run FROM steps")
    return client.context.history.steps(run)


def shell(*lines: str) -> str:
    return "#!/bin/sh\n" + "\n".join(lines) + "\n"


def test_one_command_from_the_order_to_the_result(make: Make) -> None:
    client = make()
    client.check(client.instruction())
    record = only(client)
    assert (record.state, client.counted(), (client.home / "installed").exists()) == (Stage.SUCCEEDED, 1, True)
    [run] = client.context.history.runs(record.id, 1)
    assert run.result is not None
    assert (run.result.exit_code, run.result.detected, run.result.output_tail) == (0, True, "working\n")
    [(_, outcome)] = client.context.journal.unreported()
    assert outcome.result == run.result
    assert client.state.releases()["trivial"].installed == 1
    assert list(client.context.staging.iterdir()) == []
    assert (client.context.runs / run.run / "output").read_text() == "working\n"


def test_each_step_is_journalled_before_and_after_in_the_order_of_the_list(make: Make) -> None:
    client = make()
    client.check(client.instruction(notify=Notify(show=True, countdown_s=30)))
    steps = steps_of(client)
    conditional = {"close_blocking", "health", "rollback"}
    assert [(step.step, step.phase) for step in steps] == [
        (step.name, phase) for step in STEPS if step.name not in conditional for phase in ("begin", "end")
    ]
    details = {step.step: step.detail for step in steps if step.phase == "end"}
    assert details["fetch"]["missing"] == 1
    assert details["consent"]["countdown_s"] == 30
    assert details["run"]["exit_code"] == 0


def test_q166765_the_same_order_polled_again_never_runs_twice(make: Make) -> None:
    client = make(Program(argv=("setup", str(make().home)), timeout_s=20))  # without detection: only the journal knows
    order = client.instruction()
    for _ in range(3):
        client.check(order)
    assert client.counted() == 1
    client.check(client.instruction(generation=2))
    assert client.counted() == 2


def test_what_is_there_already_is_not_installed_again(make: Make) -> None:
    client = make()
    (client.home / "installed").touch()
    client.check(client.instruction())
    assert (only(client).state, client.counted(), client.brought) == (Stage.ALREADY_INSTALLED, 0, [])
    assert client.state.releases()["trivial"].installed == 1
    assert client.state.rows("SELECT count(*) FROM runs") == [(0,)]


def test_an_uninstall_is_done_when_the_software_is_gone(make: Make) -> None:
    client = make()
    client.check(client.instruction(1, program="uninstall"))
    assert only(client).state is Stage.ALREADY_INSTALLED
    client.check(client.instruction(2))
    assert (client.home / "installed").exists()
    client.check(client.instruction(3, program="uninstall"))
    assert not (client.home / "installed").exists()
    assert client.context.journal.record(client.instruction(3).id).state is Stage.SUCCEEDED
    assert client.state.releases()["trivial"].installed is None


def test_a_repair_runs_although_its_detection_holds(make: Make, tmp_path: Path) -> None:
    home = tmp_path / "home"
    done = FileDetection(path=str(home / "installed"))
    client = Client(home, {"repair": Program(argv=("setup", str(home)), detect=done)})
    done_before = home / "installed"
    done_before.touch()
    client.check(client.instruction(program="repair"))
    assert (only(client).state, client.counted()) == (Stage.SUCCEEDED, 1)
    client.close()


@pytest.mark.parametrize(
    ("code", "state", "named"),
    [
        (0, Stage.FAILED, "detection.not_found"),
        (7, Stage.FAILED, "run.exit_code"),
        (42, Stage.RESTART_PENDING, "wait.restart"),
        (43, Stage.WAITING, "retry.exit_code"),
        (44, Stage.CANCELLED, "run.cancelled"),
    ],
)
def test_q138241_one_result_tells_code_class_detection_and_output(
    make: Make, code: int, state: Stage, named: str
) -> None:
    codes = ExitCodes(restart=(42,), retry=(43,), cancelled=(44,))
    missing = FileDetection(path="/nowhere/at/all")
    client = make(Program(argv=("setup",), exit_codes=codes, detect=missing), shell("echo said", f"exit {code}"))
    client.check(client.instruction())
    assert (only(client).state, only(client).code) == (state, named)
    [(_, outcome)] = client.context.journal.unreported()
    assert outcome.result is not None
    assert (outcome.result.exit_code, outcome.result.detected, outcome.result.output_tail) == (code, False, "said\n")
    assert client.state.rows("SELECT count(*) FROM ledger") == [(1,)]


def test_a_program_that_wants_another_try_gets_it_after_its_back_off(make: Make) -> None:
    # an exit code is 8 bits wide here, so no program can say 1618
    twice = shell('echo x >> "$1/counter"', '[ "$(wc -l < "$1/counter")" -ge 2 ] || exit 82')
    client = make(Program(argv=("setup", str(make().home)), exit_codes=ExitCodes(retry=(82,))), twice)
    order = client.instruction()
    client.check(order)
    client.check(order)
    assert (only(client).state, client.counted()) == (Stage.WAITING, 1)
    client.shift = timedelta(hours=1)
    client.check(order)
    assert (only(client).state, client.counted()) == (Stage.SUCCEEDED, 2)
    assert [run.attempt for run in client.context.history.runs(order.id, 1)] == [1, 2]


def test_q214448_a_hidden_prompt_is_ended_with_its_output_so_far(make: Make) -> None:
    client = make(Program(argv=("setup",), timeout_s=1), shell("printf 'Press any key'", "read key", "sleep 600"))
    client.check(client.instruction())
    [(_, outcome)] = client.context.journal.unreported()
    assert outcome.result is not None
    assert (only(client).code, outcome.result.timed_out, outcome.result.exit_code) == ("run.timed_out", True, None)
    assert outcome.result.output_tail == "Press any key"


def test_q128612_done_means_that_the_whole_tree_is_gone(make: Make) -> None:
    client = make(
        Program(argv=("setup", str(make().home)), detect=FileDetection(path=str(make().home / "late")), timeout_s=20),
        shell('(sleep 0.5; touch "$1/late") &', "exit 0"),
    )
    client.check(client.instruction())
    assert only(client).state is Stage.SUCCEEDED


def test_q138245_q166245_q125934_argv_folder_and_environment_are_the_documented_ones(make: Make) -> None:
    client = make(
        Program(argv=("setup", "two words", "$HOME;`id`"), environment={"EXTRA": "1"}),
        shell('printf "%s|" "$#" "$1" "$2" "$PWD" "$PCM_PACKAGE_DIRECTORY" "$PCM_PACKAGE" "$EXTRA" "$PATH"'),
    )
    client.check(client.instruction())
    [(_, outcome)] = client.context.journal.unreported()
    assert outcome.result is not None
    count, first, second, here, package, name, extra, path, _ = outcome.result.output_tail.split("|")
    assert (count, first, second, here, name, extra) == ("2", "two words", "$HOME;`id`", package, "trivial", "1")
    assert path.startswith("/usr/local/sbin:")
    assert Path(here).parent == client.context.staging


def test_q140920_the_service_finds_the_same_program_wherever_it_was_started_and_whatever_its_path(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("setup", "true"):
        (elsewhere / name).write_text(shell("touch /tmp/pcm-wrong-program"))
        (elsewhere / name).chmod(0o755)
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("PATH", str(elsewhere))
    client = make(Program(argv=("setup", str(make().home))))
    client.check(client.instruction(1))
    [run] = client.context.history.runs(only(client).id, 1)
    # the argument list in the ledger is what ran: absolute, of the package directory
    assert Path(run.argv[0]) == client.context.staging / run.run / "setup"
    assert (client.counted(), only(client).state) == (1, Stage.SUCCEEDED)
    other = make(Program(argv=("true",)), name="other")
    other.check(other.instruction())
    assert other.context.history.runs(only(other).id, 1)[0].argv == ("/usr/bin/true",)
    assert not Path("/tmp/pcm-wrong-program").exists()


def test_q150727_q163597_q164791_q191341_thirty_packages_need_no_letter_and_leave_nothing_mounted(make: Make) -> None:
    """More than there are drive letters, one after another: each has a folder of its own, and nothing of it stays."""
    client = make(Program(argv=("setup", str(make().home))), shell('pwd >> "$1/counter"', 'cp "$0" "$1/copy"'))
    client.check(*(client.instruction(number) for number in range(1, 31)))
    places = (client.home / "counter").read_text().splitlines()
    assert (len(places), len(set(places))) == (30, 30)
    assert list(client.context.staging.iterdir()) == []
    # others of these tests mount things of their own meanwhile
    assert str(client.home) not in Path("/proc/self/mountinfo").read_text()


def test_one_that_fails_does_not_stop_the_others(make: Make) -> None:
    client = make(Program(argv=("setup", str(make().home))), shell('echo x >> "$1/counter"', "exit 5"))
    client.check(*(client.instruction(number) for number in (1, 2, 3)))
    assert client.counted() == 3
    assert {record.state for record in client.context.journal.records()} == {Stage.FAILED}


def test_q225056_an_order_that_expires_while_its_files_come_does_not_run(make: Make) -> None:
    client = make()
    order = client.instruction(expires_after=client.now() + timedelta(hours=1))
    original = client.content

    class Slow(dict[str, bytes]):
        def __getitem__(self, name: str) -> bytes:
            client.shift = timedelta(hours=2)
            return original[name]

    client.content = Slow(original)
    client.check(order)
    assert (only(client).state, client.counted()) == (Stage.EXPIRED, 0)
    assert client.state.rows("SELECT count(*) FROM runs") == [(0,)]
    assert list(client.context.staging.iterdir()) == []


class Meddling(LinuxMachine):
    """Somebody with every right changes the staged program between staging and start."""

    def reference_of(self, launch: Launch) -> RunReference:
        (launch.working_directory / "setup").write_text("#!/bin/sh\ntouch /evil\n")
        return super().reference_of(launch)


def test_the_file_that_was_hashed_is_the_file_that_runs(tmp_path: Path) -> None:
    client = Client(tmp_path / "home", machine=Meddling())
    client.check(client.instruction())
    assert (only(client).state, only(client).code, client.counted()) == (Stage.REFUSED, "trust.staging_changed", 0)
    assert client.state.rows("SELECT count(*) FROM runs") == [(0,)]
    client.close()


def test_approvals_are_asked_for_again_right_before_the_launch(make: Make) -> None:
    client = make()
    client.refuse_approval = True
    client.check(client.instruction())
    assert (only(client).state, only(client).code, client.counted()) == (Stage.REFUSED, "trust.approval", 0)


def test_the_floor_is_asked_for_again_right_before_the_launch(make: Make) -> None:
    client = make()
    order = client.instruction()
    client.take_in(order)
    situation = client.situation()
    client.state.store_release(InstalledRelease("trivial", 9, 5, "9", None, client.now()))
    [line] = plan(client.context.journal.records(), situation, client.now()).lines
    assert line.action is Action.RUN
    assert run_one(line, client.context).code == "trust.downgrade"
    assert client.counted() == 0


def test_q136932_nothing_runs_before_every_file_is_here_and_a_failure_is_tried_again(make: Make) -> None:
    client = make()
    good, client.content = client.content, {}
    real = client.bring

    def unreachable(*_: object) -> None:
        raise TransferError("No server answers.", code="transfer.unreachable")

    object.__setattr__(client.context, "bring", unreachable)
    client.check(client.instruction())
    record = only(client)
    assert (record.state, record.code, record.attempts, client.counted()) == (
        Stage.WAITING,
        "transfer.unreachable",
        1,
        0,
    )
    client.content = good
    object.__setattr__(client.context, "bring", real)
    client.check()
    assert client.counted() == 0  # its back-off is not over
    client.shift = timedelta(hours=1)
    client.check()
    assert (only(client).state, client.counted()) == (Stage.SUCCEEDED, 1)


def test_wrong_bytes_refuse_the_order_until_the_right_ones_come(make: Make) -> None:
    client = make()
    real = client.bring

    def forged(*_: object) -> None:
        raise TrustError("Every server gives other bytes.", code="trust.content")

    object.__setattr__(client.context, "bring", forged)
    client.check(client.instruction())
    assert (only(client).state, only(client).code, client.counted()) == (Stage.REFUSED, "trust.content", 0)
    object.__setattr__(client.context, "bring", real)
    client.context.journal.end_back_off()
    client.check()
    assert (only(client).state, client.counted()) == (Stage.SUCCEEDED, 1)


def test_a_file_that_the_disk_has_spoilt_is_brought_again(make: Make) -> None:
    client = make()
    client.bring(Needed("0" * 64, client.manifest, 0))
    [name] = client.content
    (client.home / "var" / "store" / name[:2] / name).write_bytes(b"x" * len(client.content[name]))
    client.check(client.instruction())
    assert (only(client).state, client.counted(), len(client.brought)) == (Stage.SUCCEEDED, 1, 2)


def test_a_program_that_is_not_there_fails_without_having_run(make: Make) -> None:
    client = make(Program(argv=("no-such-program-anywhere",)))
    client.check(client.instruction())
    assert (only(client).state, only(client).code) == (Stage.FAILED, "machine.program_not_found")
    assert client.state.rows("SELECT count(*) FROM ledger") == [(0,)]


def test_a_program_that_cannot_start_leaves_no_run_behind(make: Make) -> None:
    client = make(Program(argv=("setup",)), "#!/no/such/interpreter\n")
    client.check(client.instruction())
    assert (only(client).state, only(client).code) == (Stage.FAILED, "machine.program_not_found")
    assert client.context.history.open_runs() == []
    assert client.state.rows("SELECT count(*) FROM ledger") == [(0,)]


def test_content_of_what_becomes_mandatory_later_comes_early(make: Make) -> None:
    client = make()
    later = client.now() + timedelta(hours=1)
    client.check(client.instruction(mandatory_after=later))
    assert (only(client).state, only(client).fetched, client.brought) == (Stage.WAITING, True, ["setup"])
    client.shift = timedelta(hours=2)
    client.check()
    assert (only(client).state, client.brought) == (Stage.SUCCEEDED, ["setup"])


def test_early_content_that_does_not_come_is_only_put_off(make: Make) -> None:
    client = make()

    def unreachable(*_: object) -> None:
        raise TransferError("No server answers.", code="transfer.unreachable")

    object.__setattr__(client.context, "bring", unreachable)
    made = client.check(client.instruction(mandatory_after=client.now() + timedelta(hours=1)))
    assert (only(client).code, only(client).attempts, len(made.lines)) == ("wait.deadline", 1, 1)


def test_a_mistake_of_ours_before_the_start_is_one_orders_failure(make: Make) -> None:
    client = make()

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a mistake")

    object.__setattr__(client.context, "bring", broken)
    client.check(client.instruction(1), client.instruction(2))
    assert [(record.state, record.code) for record in client.context.journal.records()] == [
        (Stage.FAILED, "internal"),
        (Stage.FAILED, "internal"),
    ]


def test_a_start_that_cannot_be_recorded_does_not_happen(make: Make) -> None:
    client = make()
    client.take_in(client.instruction())
    client.state.rows("CREATE TRIGGER full BEFORE INSERT ON runs BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    client.check()
    assert (only(client).state, only(client).code, client.counted()) == (Stage.WAITING, "store.failed", 0)


def test_a_result_that_cannot_be_recorded_is_found_again(make: Make) -> None:
    client = make()
    client.take_in(client.instruction())
    client.state.rows("CREATE TRIGGER full BEFORE INSERT ON ledger BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    with pytest.raises(StoreError):
        client.check()
    assert (only(client).state, client.counted()) == (Stage.RUNNING, 1)
    client.state.rows("DROP TRIGGER full")
    client.check()
    [(_, outcome)] = client.context.journal.unreported()
    assert outcome.result is not None
    assert (only(client).state, client.counted(), outcome.result.exit_code) == (Stage.SUCCEEDED, 1, 0)


@pytest.mark.needs("root")
def test_q172872_a_users_program_runs_as_that_user(make: Make) -> None:
    client = make(Program(argv=("/usr/bin/id", "-un"), run_as="user"))
    client.take_in(client.instruction())
    drain(client.context, client.situation)
    assert only(client).code == "wait.presence"
    drain(client.context, lambda _: replace(client.situation(), presence=Presence(("nobody",), "nobody")))
    [run] = client.context.history.runs(only(client).id, 1)
    assert run.result is not None
    assert (run.run_as, run.result.output_tail) == ("nobody", "nobody\n")


@pytest.mark.needs("root")
def test_no_user_restarts_the_computer_by_what_his_program_ends_with(make: Make) -> None:
    """Whoever it runs as can have it end with any code; the computer may be others' too, and he far away."""
    codes = ExitCodes(restart=(42,), restarting=(43,))
    client = make(Program(argv=("/bin/sh", "-c", "exit 42"), run_as="user", exit_codes=codes))
    client.take_in(client.instruction(restart_policy="force"))
    drain(client.context, lambda _: replace(client.situation(), presence=Presence(("nobody",), "nobody")))
    assert (only(client).state, only(client).code) == (Stage.SUCCEEDED, "run.restart_for_user")


def test_q229809_after_the_loss_of_the_database_nothing_is_installed_again(make: Make) -> None:
    client = make()
    order = client.instruction()
    client.check(order)
    client.close()
    (client.home / "var" / "state.db").write_bytes(b"damaged")
    again = Client(client.home)
    again.check(order)
    assert (only(again).state, again.counted()) == (Stage.ALREADY_INSTALLED, 1)
    assert [refusal.code for refusal in again.state.refusals()] == ["store.rebuilt"]
    again.close()


def test_q122202_without_detection_a_lost_history_asks_instead_of_running_again(make: Make) -> None:
    home = make().home
    program = Program(argv=("setup", str(home)))
    client = Client(home, {"install": program})
    client.check(client.instruction())
    client.close()
    (home / "var" / "state.db").unlink()
    again = Client(home, {"install": program})
    again.check(again.instruction())
    assert (only(again).state, only(again).code, again.counted()) == (Stage.UNKNOWN, "store.history_lost", 1)
    again.check(again.instruction(generation=2))
    assert (only(again).state, again.counted()) == (Stage.SUCCEEDED, 2)
    again.close()


def test_the_manifest_that_runs_is_the_one_that_was_named(make: Make) -> None:
    client = make()
    order = client.instruction()
    assert order.manifest.sha256 == hashlib.sha256(write_manifest(client.manifest)).hexdigest()
    client.take_in(order)
    with client.state.transaction() as connection:
        connection.execute("DELETE FROM manifests")
    client.check()
    assert (only(client).state, only(client).code, client.counted()) == (Stage.WAITING, "wait.source", 0)


def test_a_second_opening_reads_what_the_first_one_did(make: Make) -> None:
    client = make()
    client.check(client.instruction())
    with State.open(client.home / "var", client.now(), repair=False) as other:
        assert other.rows("SELECT state FROM instructions") == [("succeeded",)]


def test_told_to_stop_nothing_new_begins_however_far_the_plan_reaches(make: Make) -> None:
    client = make()
    client.take_in(client.instruction(1), client.instruction(2), client.instruction(3))

    def stopping() -> bool:
        return client.counted() >= 1

    def look(_: object) -> Situation:
        if stopping():
            raise MachineError("Told to stop.", code="service.stopping")
        return client.situation()

    with pytest.raises(MachineError, match="Told to stop"):
        drain(client.context, look, stopping)
    assert client.counted() == 1


def test_many_orders_run_by_one_plan(make: Make) -> None:
    client = make()
    client.take_in(*(client.instruction(number) for number in range(1, 6)))
    looks: list[int] = []

    def look(_: object) -> Situation:
        looks.append(len(client.context.journal.unreported()))
        return client.situation()

    drain(client.context, look)
    assert (looks[0], looks[-1]) == (0, 5)
    assert len(looks) < 5  # a busy computer may need more than a second for some of them


def test_a_failure_is_followed_by_a_new_plan(make: Make) -> None:
    client = make(Program(argv=("/bin/false",)))
    client.take_in(*(client.instruction(number) for number in range(1, 4)))
    looks: list[int] = []

    def look(_: object) -> Situation:
        looks.append(len(client.context.journal.unreported()))
        return client.situation()

    drain(client.context, look)
    assert looks == [0, 1, 2, 3]


def test_what_somebody_asks_for_during_a_drain_runs_in_it(make: Make) -> None:
    client = make()
    client.take_in(client.instruction(1), client.instruction(2), client.instruction(3, purpose="optional"))
    asked: list[int] = []

    def stopping() -> bool:  # asked after each program: the moment for another process to write
        if not asked:
            asked.append(client.counted())
            with State.open(client.state.folder, client.now(), repair=False) as other:
                Journal(other).request(client.instruction(3).id, "ada", client.now())
        return False

    drain(client.context, client.situation, stopping)
    assert asked == [1]
    assert {record.state for record in client.context.journal.records()} == {Stage.SUCCEEDED, Stage.ALREADY_INSTALLED}
