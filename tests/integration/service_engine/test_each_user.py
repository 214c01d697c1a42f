"""A program that runs once for each user: a result per user, and nobody's failure is anybody else's (KB Q172872)."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from pcm.model.assignment import State as Stage
from pcm.model.detection import CommandDetection
from pcm.model.errors import MachineError, Retry, TransferError
from pcm.model.program import ExitCodes, Program
from pcm.service import recovery
from pcm.service.machine.interface import Ended, Launch, Machine, RunningProgram, RunReference
from pcm.service.machine.linux.computer import LinuxMachine
from pcm.service.places import create_places, find_places
from pcm.service.plan import Presence
from pcm.service.records import UserRun
from pcm.service.runner import drain
from tests.integration.service_engine.trivial import Client
from tests.integration.service_shell.static_site import shared_folder

pytestmark = pytest.mark.needs("root", "users")

ADA, BOB, EVE = "61300", "61301", "61302"  # numbers without names
# leaves a mark in a folder that everybody can write to; ends as a file of its user's says, or well
SETUP = b"""#!/bin/sh
touch $1/marks/ran.$(date +%s%N).$(id -u)
code=0
[ ! -e $1/marks/code-$(id -u) ] || read code <$1/marks/code-$(id -u)
exit $code
"""


class EachUser:
    """A client with one order, and who is logged on at it."""

    def __init__(self, folder: Path, program: dict[str, Any], order: dict[str, Any], machine: Machine | None) -> None:
        self.folder = folder
        (folder / "marks").mkdir()
        (folder / "marks").chmod(0o1777)
        codes = ExitCodes(retry=(75,), restart=(42,))
        fields: dict[str, Any] = {
            "argv": ("setup", str(folder)),
            "run_as": "each_user",
            "timeout_s": 20,
            "exit_codes": codes,
        }
        fields |= program
        self.client = Client(
            folder,
            {"install": Program(**fields), "mark": Program(argv=("setup", str(folder)))},
            setup=SETUP,
            machine=machine,
        )
        create_places(find_places(folder))
        self.client.take_in(self.client.instruction(**order))

    def check(self, *users: str) -> None:
        """One check while these are logged on."""

        def look(_: object) -> Any:
            presence = Presence(users, users[0] if users else None, tuple(each for each in users if each == "0"))
            return replace(
                self.client.situation(), presence=presence, user_runs=self.client.context.journal.user_runs()
            )

        drain(self.client.context, look)

    def ends_with(self, user: str, code: int) -> None:
        path = self.folder / "marks" / f"code-{user}"
        path.write_text(f"{code}\n")
        path.chmod(0o644)

    @property
    def ran(self) -> list[str]:
        return [path.suffix[1:] for path in sorted((self.folder / "marks").glob("ran.*"))]

    @property
    def users(self) -> dict[str, UserRun]:
        return {each.user: each for runs in self.client.context.journal.user_runs().values() for each in runs}

    @property
    def state(self) -> tuple[Stage, str]:
        [record] = self.client.context.journal.records()
        return record.state, record.code

    def told(self) -> list[tuple[str, str, bool]]:
        """What the site hears: state, reason, and whether a result comes with it."""
        return [
            (each.state.value, each.reason, each.result is not None)
            for _, each in self.client.context.journal.unreported()
        ]


@pytest.fixture
def made() -> Iterator[Any]:
    clients: list[Client] = []
    with shared_folder() as folder:

        def make(machine: Machine | None = None, order: dict[str, Any] | None = None, **program: Any) -> EachUser:
            each = EachUser(folder, program, order or {}, machine)
            clients.append(each.client)
            return each

        yield make
        for client in clients:
            client.close()


def test_q172872_it_runs_once_for_each_who_is_there_and_later_for_who_comes(made: Any) -> None:
    each = made()
    each.check()
    assert (each.state, each.ran) == ((Stage.WAITING, "wait.next_logon"), [])
    each.check(ADA, BOB)
    assert sorted(each.ran) == [ADA, BOB]
    each.check(ADA, BOB)
    each.check(BOB)
    assert len(each.ran) == 2, "once for each"
    each.check(EVE, ADA)
    assert sorted(each.ran) == [ADA, BOB, EVE]
    assert {user: run.state for user, run in each.users.items()} == dict.fromkeys((ADA, BOB, EVE), Stage.SUCCEEDED)
    assert each.state == (Stage.WAITING, "wait.next_logon")
    results = [reason for _, reason, result in each.told() if result]
    assert [f"For {user}: succeeded." in " ".join(results) for user in (ADA, BOB, EVE)] == [True] * 3
    assert len(results) == 3
    ledger = each.client.state.rows("SELECT json_extract(body, '$.run_as') FROM ledger ORDER BY seq")
    assert sorted(user for (user,) in ledger) == [ADA, BOB, EVE]


def test_nobodys_failure_is_anybody_elses(made: Any) -> None:
    each = made()
    each.ends_with(ADA, 7)
    each.check(ADA, BOB)
    assert sorted(each.ran) == [ADA, BOB]
    assert {user: (run.state, run.code) for user, run in each.users.items()} == {
        ADA: (Stage.FAILED, "run.exit_code"),
        BOB: (Stage.SUCCEEDED, ""),
    }
    each.check(ADA, BOB)
    assert len(each.ran) == 2
    assert any(f"For {ADA}: failed. It ended with exit code 7." in reason for _, reason, _ in each.told())


def test_each_is_tried_again_by_itself_with_a_back_off_of_its_own(made: Any) -> None:
    each = made()
    each.ends_with(ADA, 75)
    each.check(ADA, BOB)
    each.check(ADA, BOB)
    assert sorted(each.ran) == [ADA, BOB], "not before its time"
    first = each.users[ADA]
    assert (first.state, first.attempts) == (Stage.WAITING, 1)
    assert each.state == (Stage.WAITING, "wait.retry")
    each.client.shift += timedelta(hours=1)
    each.check(ADA, BOB, EVE)
    assert sorted(each.ran) == [ADA, ADA, BOB, EVE]
    assert (each.users[ADA].attempts, each.users[EVE].attempts) == (2, 0)
    each.ends_with(ADA, 0)
    each.client.shift += timedelta(hours=1)
    each.check(ADA)
    assert each.users[ADA].state is Stage.SUCCEEDED


def test_an_account_that_cannot_run_it_blocks_nobody(made: Any) -> None:
    class Refusing(LinuxMachine):
        """This computer, on which one account may not start programs."""

        def start(self, launch: Launch, reference: RunReference | None = None) -> RunningProgram:
            if launch.run_as == ADA:
                raise MachineError("It may not.", code="machine.account", retry=Retry.NEVER)
            return super().start(launch, reference)

    each = made(Refusing())
    each.check(ADA, BOB)
    assert each.ran == [BOB]
    assert {user: (run.state, run.code) for user, run in each.users.items()} == {
        ADA: (Stage.FAILED, "machine.account"),
        BOB: (Stage.SUCCEEDED, ""),
    }


def test_what_is_about_the_package_is_about_all(made: Any) -> None:
    each = made()
    bring = each.client.bring

    def silent(*_: object) -> None:
        raise TransferError("No server answers.", code="transfer.unreachable")

    object.__setattr__(each.client.context, "bring", silent)
    each.check(ADA, BOB)
    assert (each.users, each.state[1]) == ({}, "transfer.unreachable")
    object.__setattr__(each.client.context, "bring", bring)
    each.client.shift += timedelta(hours=1)
    each.check(ADA, BOB)
    assert sorted(each.ran) == [ADA, BOB]


def test_detection_is_each_users_own(made: Any) -> None:
    """Its command runs as the user, and sees what is the user's."""
    command = CommandDetection(command=["/bin/sh", "-c", 'test "$(id -u)" = 61300'], installed_when="exit_zero")
    each = made(detect=command)
    each.check(ADA, BOB)
    assert each.ran == [BOB]
    assert {user: (run.state, run.code) for user, run in each.users.items()} == {
        ADA: (Stage.ALREADY_INSTALLED, "detection.already_done"),
        BOB: (Stage.FAILED, "detection.not_found"),
    }


def test_an_administrator_is_no_user_whatever_the_plan_says(made: Any) -> None:
    each = made()
    each.check("0")
    assert each.ran == []
    assert each.users == {}


def test_one_users_wish_for_a_restart_restarts_nobodys_computer(made: Any) -> None:
    each = made()
    each.ends_with(ADA, 42)
    each.check(ADA)
    assert (each.users[ADA].state, each.users[ADA].code) == (Stage.SUCCEEDED, "run.restart_for_user")
    assert each.state == (Stage.WAITING, "wait.next_logon")


def test_an_optional_one_runs_for_who_asks(made: Any) -> None:
    each = made(order={"purpose": "optional"}, user_requestable=True)
    each.check(ADA, BOB)
    assert each.ran == []
    [record] = each.client.context.journal.records()
    each.client.context.journal.request(record.id, BOB, each.client.now())
    each.check(ADA, BOB)
    assert each.ran == [BOB]
    each.client.context.journal.request(record.id, ADA, each.client.now())
    each.check(ADA, BOB)
    assert each.ran == [BOB, ADA]


def test_many_users_let_another_order_pass(made: Any) -> None:
    each = made()
    for_all = each.client.instruction()
    each.client.take_in(for_all, each.client.instruction(2, program="mark", priority=1))
    each.check(ADA, BOB, EVE)
    assert each.ran == [ADA, "0", BOB, EVE]


def test_what_is_forgotten_is_forgotten_for_all_users(made: Any) -> None:
    each = made()
    each.check(ADA)
    each.client.take_in()
    each.check()
    each.client.context.history.prune(each.client.now() + timedelta(days=1))
    assert each.client.state.rows("SELECT * FROM user_runs") == []


def test_a_new_order_runs_for_everybody_again(made: Any) -> None:
    each = made()
    each.check(ADA)
    each.client.take_in(each.client.instruction(generation=2))
    each.check(ADA)
    assert each.ran == [ADA, ADA]


def test_a_service_that_dies_runs_it_for_nobody_twice(made: Any) -> None:
    class Dying(LinuxMachine):
        """This computer, on which the worker dies while the first program runs."""

        def start(self, launch: Launch, reference: RunReference | None = None) -> RunningProgram:
            started = super().start(launch, reference)

            class Dead:
                """What is left of a worker."""

                reference = started.reference

                def wait(self) -> Ended:
                    started.wait()
                    raise KeyboardInterrupt

            return Dead()  # type: ignore[return-value]

    each = made(Dying())
    with pytest.raises(KeyboardInterrupt):
        each.check(ADA, BOB)
    assert each.ran == [ADA]
    recovery.reconcile(each.client.context)
    assert list(each.users) == [ADA]
    assert each.users[ADA].state is Stage.SUCCEEDED
    object.__setattr__(each.client.context, "machine", LinuxMachine())
    each.check(ADA, BOB)
    assert each.ran == [ADA, BOB]
