"""`pcmsvc`: the commands of the PCM service for whoever administers this computer. Parse, call, show, nothing else.

Process entry for all steps of the client. Every PcmError becomes one message and an exit code here, never a trace.

Exit codes: 0 done; 1 refused or failed (also: a requirement does not hold, the ledger is broken); 2 usage; 3 not found;
4 not allowed; 5 unreachable; 6 another instance is running; 130 stopped by Ctrl-C.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from pcm.model.errors import MachineError, PcmError, RequestError
from pcm.service import printing as show
from pcm.service.places import Places, create_places, find_places, require_protected
from pcm.service.worker import DONE, FAILED, exit_code_of, utc_now

_MAX_KIT = 256 * 2**10
_MAX_TOKEN = 200
INTERRUPTED = 130
_STOPPING = b"pcmsvc: stopping; what runs is seen to its end (Ctrl-C again: leave it, and never know how it ended).\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    parsed = _parser().parse_args(arguments)
    places = find_places(parsed.home)
    try:
        return int(parsed.command(parsed, places))
    except PcmError as error:
        _complain(error, as_json=parsed.json)
        return INTERRUPTED if error.code == "service.stopping" else exit_code_of(error)
    except KeyboardInterrupt:
        print("pcmsvc: stopped.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader (a pager, head) has seen enough
        return DONE


def _everywhere(**default: object) -> argparse.ArgumentParser:
    """The options that may stand before or after the command: before it with their default, after it without."""
    shared = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    shared.add_argument("--home", type=Path, help="keep everything below this folder")
    shared.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="answer in JSON")
    shared.set_defaults(**default)
    return shared


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pcmsvc",
        description="The PCM service: installs software with administrator rights, as its site's signed files say.",
        epilog="Exit codes: 0 done, 1 refused or failed, 2 usage, 3 not found, 4 not allowed, 5 unreachable, "
        "6 already running, 130 Ctrl-C.",
        parents=[_everywhere(home=None, json=False)],
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, command: object, summary: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=summary, description=summary, parents=[_everywhere()])
        added.set_defaults(command=command)
        return added

    enroll = add("enroll", _enroll, "Make this computer a client of the site that the kit is from.")
    enroll.add_argument("--kit", type=Path, required=True, help="enrolment kit, from `pcm client kit`")
    token = enroll.add_mutually_exclusive_group()
    token.add_argument("--token", help="one-time token ('-': read it from standard input); others here see it")
    token.add_argument("--token-file", type=Path, help="file with the one-time token")
    enroll.add_argument(
        "--new-key", action="store_true", help="as another client than before: its key was revoked, or is a copy's"
    )
    add("check", _check, "Name each requirement of the service, and whether it holds.")
    add("once", _once, "Do one check in the foreground: ask, verify, run what is due, report.")
    add("run", _run, "Be the resident service, in the foreground.")
    add("sync", _sync, "Have the running service ask its servers now.")
    add("status", _status, "Show how the service is.")
    add("list", _list, "List instructions: available, coming, done.")
    why = add("why", _why, "Explain the decision about one instruction or job.")
    why.add_argument("id", help="instruction or job")
    log = add("log", _log, "Show what happened here, or the output of an instruction's last run.")
    log.add_argument("id", nargs="?", help="instruction, job or run")
    ledger = add("ledger", _ledger, "Show everything that ran here as administrator.")
    ledger.add_argument("action", nargs="?", choices=["show", "verify"], default="show", help="verify: only the chain")
    return parser


def _enroll(parsed: argparse.Namespace, places: Places) -> int:
    from pcm.service.check import PENDING  # noqa: PLC0415 - each command loads its own
    from pcm.service.enrolment import enroll, read_kit  # noqa: PLC0415
    from pcm.service.machine.here import this_machine  # noqa: PLC0415
    from pcm.service.state import State  # noqa: PLC0415

    machine = this_machine()
    if places.home is None and not machine.is_administrator():
        raise MachineError("Only an administrator can enrol this computer; use sudo.", code="machine.rights")
    try:
        kit = read_kit(_read(parsed.kit, _MAX_KIT, "enrolment kit"))
    except RequestError as error:
        if not error.code.startswith("protocol."):
            raise
        raise RequestError(f"{parsed.kit} is no enrolment kit: {error.message}", code=error.code) from None
    enrolled = enroll(places, machine, kit, _token(parsed), utc_now, new_key=parsed.new_key)
    with State.open(places.state, utc_now()) as state:
        state.set_meta(PENDING, "1" if enrolled.pending else "")
    show.enrolled(enrolled, kit.configuration.site, as_json=parsed.json)
    return DONE


def _token(parsed: argparse.Namespace) -> str | None:
    if parsed.token_file is not None:
        return _read(parsed.token_file, _MAX_TOKEN + 2, "token").decode("ascii", "replace").strip()
    if parsed.token == "-":  # noqa: S105 - it means: from standard input
        return sys.stdin.readline(_MAX_TOKEN + 2).strip()
    return None if parsed.token is None else str(parsed.token).strip()


def _check(parsed: argparse.Namespace, places: Places) -> int:
    from pcm.service.machine.here import this_machine  # noqa: PLC0415
    from pcm.service.requirements import check_requirements  # noqa: PLC0415

    found = check_requirements(places, this_machine(), utc_now)
    show.requirements(found, as_json=parsed.json)
    return DONE if all(requirement.holds for requirement in found) else FAILED


def _once(parsed: argparse.Namespace, places: Places) -> int:
    from pcm.service import faults  # noqa: PLC0415
    from pcm.service.worker import equip  # noqa: PLC0415

    faults.arm(os.environ, home_given=places.home is not None)
    say = (lambda _: None) if parsed.json else show.progress
    stopping = _stop_by_keyboard()
    with equip(places, say, lambda: bool(stopping)) as equipment:
        from pcm.service.check import Check  # noqa: PLC0415 - the transfer process is booting meanwhile

        checked = Check(equipment, forced=True).perform()
    show.checked(checked, as_json=parsed.json)
    return INTERRUPTED if stopping else exit_code_of(checked.problem)


def _stop_by_keyboard() -> list[int]:
    """Ctrl-C begins nothing new but sees to its end what runs, as the resident service does; a second one ends at once."""
    stopping: list[int] = []

    def stop(number: int, _: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stopping.append(number)
        os.write(2, _STOPPING)  # what is being printed just now has its lock

    signal.signal(signal.SIGINT, stop)
    return stopping


def _run(_parsed: argparse.Namespace, places: Places) -> int:
    from pcm.service.machine.here import this_machine  # noqa: PLC0415
    from pcm.service.machine.resident import become_own  # noqa: PLC0415

    machine = this_machine()
    if places.home is None and not machine.is_administrator():
        raise MachineError("The service runs as administrator; systemd starts it so.", code="machine.rights")
    create_places(places)
    require_protected(places, machine)
    sys.stdout.flush()
    become_own("pcm.service.supervisor", (str(places.runtime), *places.arguments()))


def _sync(parsed: argparse.Namespace, places: Places) -> int:
    from pcm.protocol.local import Accepted  # noqa: PLC0415

    answer = show.ask(places, "sync", through_socket=True)
    assert isinstance(answer, Accepted)
    show.accepted(answer, as_json=parsed.json)
    return DONE


def _status(parsed: argparse.Namespace, places: Places) -> int:
    from pcm.protocol.local import Status  # noqa: PLC0415

    answer = show.ask(places, "status")
    assert isinstance(answer, Status)
    show.status(answer, as_json=parsed.json)
    return DONE


def _list(parsed: argparse.Namespace, places: Places) -> int:
    from pcm.protocol.local import Items  # noqa: PLC0415

    answer = show.ask(places, "list")
    assert isinstance(answer, Items)
    show.items(answer, as_json=parsed.json)
    return DONE


def _why(parsed: argparse.Namespace, places: Places) -> int:
    from pcm.protocol.local import Why  # noqa: PLC0415

    answer = show.ask(places, "why", parsed.id)
    assert isinstance(answer, Why)
    show.why(answer, as_json=parsed.json)
    return DONE


def _log(parsed: argparse.Namespace, places: Places) -> int:
    from pcm.service.log import read_events, read_output  # noqa: PLC0415

    if parsed.id is None:
        show.events(read_events(places, utc_now()), as_json=parsed.json)
    else:
        show.output(read_output(places, parsed.id, utc_now()), as_json=parsed.json)
    return DONE


def _ledger(parsed: argparse.Namespace, places: Places) -> int:
    from pcm.protocol.local import Ledger  # noqa: PLC0415

    answer = show.ask(places, "ledger")
    assert isinstance(answer, Ledger)
    show.ledger(answer, verify=parsed.action == "verify", as_json=parsed.json)
    return DONE if answer.broken_at is None else FAILED


def _read(path: Path, most: int, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except FileNotFoundError:
        raise RequestError(f"There is no {what} at {path}.", code="not_found") from None
    except OSError as error:
        raise RequestError(f"The {what} at {path} cannot be read: {error.strerror}.", code="request.file") from None
    if len(data) > most:
        raise RequestError(f"{path} is too long to be an {what}: more than {most} bytes.", code="protocol.too_long")
    return data


def _complain(error: PcmError, *, as_json: bool) -> None:
    if as_json:
        show.json_line({"error": {"code": error.code, "message": error.message}})
    print(f"pcmsvc: {error.message} [{error.code}]", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
