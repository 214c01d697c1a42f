"""`pcmsvc`: the commands of the PCM service for whoever administers this computer. Parse, call, show, nothing else.

Process entry for all steps of the client. Every PcmError becomes one message and an exit code here, never a trace.

Exit codes: 0 done; 1 refused or failed (also: a requirement does not hold, the ledger is broken, the computer whose status is
asked for is no client of any site); 2 usage; 3 not found;
4 not allowed; 5 unreachable; 6 another instance is running; 130 stopped by Ctrl-C.
"""

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pcm.model.errors import MachineError, PcmError, RequestError, TransferError
from pcm.protocol.spelling import CommandLine
from pcm.service import printing as show
from pcm.service.completion import SHELLS, script
from pcm.service.places import Places, create_places, find_places, require_protected
from pcm.service.worker import DONE, FAILED, exit_code_of, utc_now

if TYPE_CHECKING:
    from pcm.protocol.local import Verb

INTERRUPTED = 130
_STOPPING = b"pcmsvc: stopping; what runs is seen to its end (Ctrl-C again: leave it, and never know how it ended).\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    parsed = parser().parse_args(arguments)
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
    except OSError as error:
        # what no module foresaw: a disk that goes, an interpreter that this account cannot reach
        where = f" ({error.filename})" if error.filename else ""
        mapped = MachineError(f"This computer refuses: {error.strerror or error}{where}.", code="machine.system")
        _complain(mapped, as_json=parsed.json)
        return exit_code_of(mapped)


def _everywhere(**default: object) -> CommandLine:
    """The options that may stand before or after the command: before it with their default, after it without."""
    shared = CommandLine(add_help=False, argument_default=argparse.SUPPRESS)
    shared.add_argument("--home", type=Path, metavar="DIR", help="keep everything below this folder")
    shared.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="answer in JSON")
    shared.set_defaults(**default)
    return shared


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = CommandLine(
        prog="pcmsvc",
        description="The PCM service: installs software with administrator rights, as its site's signed files say.",
        epilog="Exit codes: 0 done, 1 refused or failed, 2 usage, 3 not found, 4 not allowed, 5 unreachable, "
        "6 already running, 130 Ctrl-C.",
        parents=[_everywhere(home=None, json=False)],
    )
    commands = made.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, command: object, summary: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=summary, description=summary, parents=[_everywhere()])
        added.set_defaults(command=command)
        return added

    _installing(add)
    enroll = add("enroll", _enroll, "Make this computer a client of the site that the kit is from.")
    _token_options(enroll, kit_required=True)
    enroll.add_argument(
        "--new-key", action="store_true", help="as another client than before: its key was revoked, or is a copy's"
    )
    add("check", _check, "Name each requirement of the service, and whether it holds.")
    add("once", _once, "Do one check in the foreground: ask, verify, run what is due, report.")
    add("run", _run, "Be the resident service, in the foreground.")
    add("sync", _sync, "Have the running service ask its servers now.")
    pause = add("pause", _pause, "Begin nothing more here, until an end or until resume; what runs is seen to its end.")
    pause.add_argument("--for", dest="span", metavar="SPAN", help="such as 90m, 2h or 3d; default: until resume")
    add("resume", _resume, "End a pause.")
    add("status", _status, "Show how the service is.")
    add("list", _list, "List instructions: available, coming, done.")
    why = add("why", _why, "Explain the decision about one instruction or job.")
    why.add_argument("id", metavar="NAME", help="instruction, job or package")
    simulated = add("simulate", _simulate, "Show the plan of another time, and what would start then. Changes nothing.")
    simulated.add_argument(
        "--at", metavar="TIME", required=True, help="such as +2d, 2026-01-31T22:00 or 2026-01-31T21:00Z"
    )
    simulated.add_argument(
        "--starts", type=int, default=10, metavar="N", help="how many starts to foresee (default 10)"
    )
    log = add("log", _log, "Show what happened here, or the output of an instruction's last run.")
    log.add_argument("id", metavar="NAME", nargs="?", help="instruction, job, package or run")
    ledger = add("ledger", _ledger, "Show everything that ran here as administrator.")
    ledger.add_argument("action", nargs="?", choices=["show", "verify"], default="show", help="verify: only the chain")
    completed = add("completion", _completion, "Print a script that completes commands and options in a shell.")
    completed.add_argument("shell", choices=SHELLS, help="bash: source <(pcmsvc completion bash)")
    add("names", _names, "The names that can stand behind why and log. Not for people: for the scripts of completion.")
    return made


def _installing(add: Callable[[str, object, str], argparse.ArgumentParser]) -> None:
    install = add(
        "install", _install, "Install this version here, or bring the client that is here to it; safe to repeat."
    )
    _token_options(install, kit_required=False)
    install.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    install.add_argument(
        "--keep-newer", action="store_true", help="a newer version that is here is no error, and stays"
    )
    install.add_argument("--again", action="store_true", help="also a version that was here and did not work")
    trial = install.add_mutually_exclusive_group()
    trial.add_argument(
        "--trial", metavar="SPAN", help="how long a newer version may take to show that it works (default: 15m)"
    )
    trial.add_argument("--no-trial", action="store_true", help="a newer version need not show anything")
    add("watch-update", _watch_update, "Watch over a version on trial, from the one before. Not for people.")
    repair = add("repair", _repair, "Put right what `check` names of the installation. Key and records stay.")
    repair.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    remove = add("remove", _remove, "Remove the service. Key and records stay, and so does what programs installed.")
    remove.add_argument("--purge", action="store_true", help="remove key, configuration and records too")
    remove.add_argument("--wait", action="store_true", help="wait for a program that runs, instead of refusing")
    remove.add_argument("--keep-program", action="store_true", help="leave the program's files (for package tools)")


def _token_options(command: argparse.ArgumentParser, *, kit_required: bool) -> None:
    command.add_argument("--kit", type=Path, required=kit_required, help="enrolment kit, from `pcm client kit`")
    token = command.add_mutually_exclusive_group()
    token.add_argument("--token", help="one-time token ('-': read it from standard input); others here see it")
    token.add_argument("--token-file", type=Path, help="file with the one-time token")


def _install(parsed: argparse.Namespace, places: Places) -> int:
    from pcm.service.installation.commands import run_install  # noqa: PLC0415 - each command loads its own

    return run_install(parsed, places)


def _watch_update(parsed: argparse.Namespace, places: Places) -> int:
    from pcm.service.installation.commands import run_watch  # noqa: PLC0415

    return run_watch(parsed, places)


def _repair(parsed: argparse.Namespace, places: Places) -> int:
    from pcm.service.installation.commands import run_repair  # noqa: PLC0415

    return run_repair(parsed, places)


def _remove(parsed: argparse.Namespace, places: Places) -> int:
    from pcm.service.installation.commands import run_remove  # noqa: PLC0415

    return run_remove(parsed, places)


def _enroll(parsed: argparse.Namespace, places: Places) -> int:
    from pcm.service.check import PENDING  # noqa: PLC0415 - each command loads its own
    from pcm.service.enrolment import enroll  # noqa: PLC0415
    from pcm.service.installation.commands import start_installed  # noqa: PLC0415
    from pcm.service.kit_files import read_kit_file, read_token  # noqa: PLC0415
    from pcm.service.machine.here import this_machine  # noqa: PLC0415
    from pcm.service.state import State  # noqa: PLC0415

    machine = this_machine()
    if places.home is None and not machine.is_administrator():
        raise MachineError("Only an administrator can enrol this computer; use sudo.", code="machine.rights")
    kit, given = read_kit_file(parsed.kit), read_token(parsed.token, parsed.token_file)
    enrolled = enroll(places, machine, kit, given, utc_now, new_key=parsed.new_key)
    with State.open(places.state, utc_now()) as state:
        state.set_meta(PENDING, "1" if enrolled.pending else "")
    show.enrolled(enrolled, kit.configuration.site, as_json=parsed.json)
    start_installed(places)
    return DONE


def _check(parsed: argparse.Namespace, places: Places) -> int:
    from pcm.service.installation.measures import installed_here  # noqa: PLC0415
    from pcm.service.machine.here import this_machine  # noqa: PLC0415
    from pcm.service.requirements import check_requirements  # noqa: PLC0415

    found = [*check_requirements(places, this_machine(), utc_now), *installed_here(places)]
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
    from pcm.service.machine.here import take_rights, this_machine  # noqa: PLC0415
    from pcm.service.machine.resident import become_own  # noqa: PLC0415

    machine = this_machine()
    if places.home is None and not machine.is_administrator():
        take_rights(places.runtime)
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


def _pause(parsed: argparse.Namespace, places: Places) -> int:
    until = None if parsed.span is None else utc_now() + _span(parsed.span)
    return _note(parsed, places, "pause", until)


def _resume(parsed: argparse.Namespace, places: Places) -> int:
    return _note(parsed, places, "resume")


def _span(text: str) -> timedelta:
    amount, unit = text[:-1], {"m": 60, "h": 3600, "d": 86_400}.get(text[-1:])
    if unit is None or not amount.isascii() or not amount.isdigit() or not 0 < len(amount) <= 5 or not int(amount):
        raise RequestError(f"{text!r} is no span of time: write 90m, 2h or 3d.", code="usage")
    return timedelta(seconds=int(amount) * unit)


def _note(parsed: argparse.Namespace, places: Places, verb: "Verb", until: datetime | None = None) -> int:
    """Note something for the service: through its socket, so that it looks at once; in its state while it does not run."""
    from pcm.protocol.local import Accepted  # noqa: PLC0415

    try:
        answer = show.ask(places, verb, until=until, through_socket=True)
    except TransferError as error:
        if error.code != "local.unreachable" or not os.access(places.state, os.W_OK):
            raise
        answer = show.ask(places, verb, until=until)
    assert isinstance(answer, Accepted)
    show.accepted(answer, as_json=parsed.json)
    return DONE


def _status(parsed: argparse.Namespace, places: Places) -> int:
    from pcm.protocol.local import Status  # noqa: PLC0415

    answer = show.ask(places, "status")
    assert isinstance(answer, Status)
    show.status(answer, as_json=parsed.json)
    return DONE if answer.enrolled else FAILED


def _list(parsed: argparse.Namespace, places: Places) -> int:
    from pcm.protocol.local import Items  # noqa: PLC0415

    answer = show.ask(places, "list")
    assert isinstance(answer, Items)
    show.items(answer, as_json=parsed.json)
    return DONE


def _why(parsed: argparse.Namespace, places: Places) -> int:
    from pcm.protocol.local import Why  # noqa: PLC0415
    from pcm.service.naming import choose  # noqa: PLC0415

    answer = show.ask(places, "why", choose(parsed.id, show.named(places)) or parsed.id)
    assert isinstance(answer, Why)
    show.why(answer, as_json=parsed.json)
    return DONE


def _simulate(parsed: argparse.Namespace, places: Places) -> int:
    from pcm.service import simulate  # noqa: PLC0415
    from pcm.service.machine.here import this_machine  # noqa: PLC0415

    machine = this_machine()
    if places.home is None and not machine.is_administrator():
        raise MachineError("Only an administrator can look ahead; use sudo.", code="machine.rights")
    result = simulate.simulate(places, machine, parsed.at, parsed.starts, utc_now())
    if parsed.json:
        show.json_line(result)
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print(simulate.in_words(result, width))
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


def _names(parsed: argparse.Namespace, places: Places) -> int:
    from pcm.service.naming import words  # noqa: PLC0415

    found = words(show.named(places))
    if parsed.json:
        show.json_line(found)
    else:
        print("\n".join(found))
    return DONE


def _completion(parsed: argparse.Namespace, _places: Places) -> int:
    text = script(parsed.shell, parser())
    if parsed.json:
        show.json_line({"shell": parsed.shell, "script": text})
    else:
        print(text, end="")
    return DONE


def _complain(error: PcmError, *, as_json: bool) -> None:
    if as_json:
        show.json_line({"error": {"code": error.code, "message": error.message}})
    print(f"pcmsvc: {error.message} [{error.code}]", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
