"""The short-lived process in which work is done: one check, or the answer to one local connection.

Serves steps 6 to 12; started by `supervisor`, ends when it is done. `check` takes the work lock, and prints one line at its end,
`{"next_check_s": n}`, the supervisor's alarm clock, with `"logon": true` if something waits for somebody to log on or off.
`answer` finds the connection as its standard input; its exit code says whether somebody wants a check. Told to stop (SIGTERM),
a check begins no new program; one that runs is seen to its end.

Process entry: here, and in `main`, every PcmError becomes a message and an exit code; anything else is a mistake of ours and
shows its trace in the service's log.
"""

import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pcm.service import quick_start  # noqa: F401 - before anything that loads msgspec

# isort: split
from pcm.model.errors import PcmError
from pcm.service import faults
from pcm.service.configuration import load_configuration
from pcm.service.machine.here import this_machine
from pcm.service.places import Places, create_places, find_places, require_protected
from pcm.service.quick_check import look, say
from pcm.service.rest import NAME, read_rest
from pcm.service.transfer_start import TransferStart, transfer_settings

if TYPE_CHECKING:
    from pcm.service.check import Equipment
    from pcm.service.quick_check import Glanced

DONE = 0
FAILED = 1
USAGE = 2
NOT_FOUND = 3
NOT_ALLOWED = 4
UNREACHABLE = 5
ALREADY_RUNNING = 6
CHECK_NOW = 75
AFTER_TROUBLE_S = 300
# of this client's key, or of the account that reads shares
REFUSALS = ("transfer.refused", "transfer.password_expired")
EARLIEST = datetime(1971, 1, 2, tzinfo=UTC)


def utc_now() -> datetime:
    """The wall clock. Everything else takes the time as an argument.

    A computer without a battery for its clock begins in 1970, a year that no document can hold: what was refused then could never
    be reported. It counts as `EARLIEST`, which is just as wrong and which check 2 finds just as well.
    """
    return max(datetime.now(UTC), EARLIEST)


def exit_code_of(error: PcmError | None) -> int:
    """The exit code for an error; 0 for none."""
    if error is None:
        return DONE
    if error.code == "machine.already_running":
        return ALREADY_RUNNING
    if error.code == "usage":
        return USAGE
    if error.code == "not_found":
        return NOT_FOUND
    if error.code in ("not_allowed", "machine.rights"):
        return NOT_ALLOWED
    if error.code.startswith("transfer.") or error.code == "local.unreachable":
        refused = error.code in REFUSALS or error.code.startswith(("transfer.account_", "transfer.no_account"))
        return NOT_ALLOWED if refused else UNREACHABLE
    return FAILED


@contextlib.contextmanager
def equip(places: Places, say: Callable[[str], None], stopping: Callable[[], bool]) -> "Iterator[Equipment]":
    """Everything a check needs, opened in the right order and closed again. Check 1: one instance, the lock first.

    Raises:
        MachineError: `machine.already_running`, `machine.unprotected`. RequestError: `not_enrolled`. StoreError: this disk.
    """
    machine = this_machine()
    configuration = load_configuration(places)
    create_places(places)
    require_protected(places, machine)
    with machine.lock_instance(places.work_lock):
        start = TransferStart(machine, configuration)  # boots while this process imports the rest
        try:
            from pcm.service.check import Equipment  # noqa: PLC0415
            from pcm.service.identity import load_identity  # noqa: PLC0415
            from pcm.service.share_client import ShareClient  # noqa: PLC0415
            from pcm.service.sources import Network  # noqa: PLC0415
            from pcm.service.state import State  # noqa: PLC0415

            identity = load_identity(places.identity)
            client = ShareClient(start, transfer_settings(configuration), places, utc_now)
            network = Network(client, identity, utc_now)
            try:
                with State.open(places.state, utc_now()) as state:
                    yield Equipment(places, machine, configuration, identity, state, network, utc_now, say, stopping)
            finally:
                network.close()
        finally:
            start.discard()


def check(places: Places) -> int:
    """One check for the supervisor; prints when the next one is due."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    try:
        with equip(places, lambda _: None, lambda: bool(stopped)) as equipment:
            from pcm.service.check import Check  # noqa: PLC0415

            checked = Check(equipment).perform()
    except PcmError as error:
        _complain(error)
        if error.code == "machine.already_running":
            return ALREADY_RUNNING
        if error.code in ("not_enrolled", "machine.unprotected"):
            # somebody has to come; looking often would change nothing
            say(AFTER_TROUBLE_S, contact=False)
        return exit_code_of(error)
    glanced = _wait_at_server(places) if checked.contact else None
    say(
        checked.next_check_s,
        logon=checked.awaits_logon,
        contact=checked.contact,
        news=checked.news,
        wake_s=glanced.wake_s if glanced else 0,
        parked=glanced.parked if glanced else -1,
    )
    return DONE


def _wait_at_server(places: Places) -> "Glanced | None":
    """Leave a connection at the logon server that stirs when there is news, if it offers that."""
    rest = read_rest(f"{places.state}/{NAME}")
    if rest is None:
        return None
    try:
        return look(rest, question=False)
    except OSError as error:
        sys.stderr.write(f"pcmsvc: no connection could be left at the logon server: {error.strerror}.\n")
        return None


def answer(places: Places) -> int:
    """Answer the local connection on standard input; the exit code says whether a check is wanted."""
    from pcm.service.local_api import serve  # noqa: PLC0415 - half of a check's imports

    with socket.socket(fileno=os.dup(0)) as connection:
        return CHECK_NOW if serve(connection, places, this_machine(), utc_now) else DONE


def main() -> int:
    """Process entry: `check` or `answer`, then perhaps `--home DIR`; written by `supervisor` alone."""
    # a short life: looking for garbage after every few hundred new objects is a twentieth of a poll, a seventh of a big check
    gc.set_threshold(50_000, 20, 20)
    verb, *rest = sys.argv[1:]
    home = Path(rest[1]) if rest[:1] == ["--home"] else None
    places = find_places(home)
    try:
        faults.arm(os.environ, home_given=home is not None)
        return check(places) if verb == "check" else answer(places)
    except PcmError as error:
        _complain(error)
        return exit_code_of(error)


def _complain(error: PcmError) -> None:
    sys.stderr.write(f"pcmsvc: {error.message} [{error.code}]\n")
    sys.stderr.flush()
