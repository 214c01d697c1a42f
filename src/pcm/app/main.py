"""`pcmapp` in a terminal: list, show, install, postpone, watch and more, for whoever sits at this computer.

Serves step 9: the user's side of consent, and sees what came of everything. It asks the service over its local socket and decides
nothing: who may ask what is the service's word.

Exit codes: 0 done, 1 refused, 2 usage, 3 not found, 4 not allowed, 5 unreachable.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pcm.app import verbs
from pcm.app.call import Call
from pcm.app.columns import RED, Screen
from pcm.app.completion import SHELLS
from pcm.model.errors import PcmError, TransferError
from pcm.protocol.local import DEFAULT_SOCKET, SOCKET_NAME
from pcm.protocol.spelling import CommandLine

DONE, REFUSED, USAGE, NOT_FOUND, NOT_ALLOWED, UNREACHABLE = range(6)
INTERRUPTED = 130
_CODES = {"not_found": NOT_FOUND, "not_allowed": NOT_ALLOWED}
_NAME = "a package's name, or an id from the list"
_TIME = "18:30, +2h, or '2026-01-31 18:30'; default: an hour, or as long as allowed"
_ABOUT = "Software for this computer: what is available, what is coming, what was done."


def parser() -> argparse.ArgumentParser:
    """The command line."""
    everywhere = CommandLine(add_help=False)
    everywhere.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="results for programs")
    everywhere.add_argument(
        "--home", type=Path, metavar="DIR", default=argparse.SUPPRESS, help="a service that runs from there"
    )
    made = CommandLine(prog="pcmapp", description=_ABOUT, parents=[everywhere])
    commands = made.add_subparsers(dest="verb", metavar="COMMAND", required=True)

    def add(name: str, about: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=about, description=about, parents=[everywhere])

    add("list", "What is available, what is coming and when, what was done.").add_argument(
        "--all", action="store_true", help="also what is long over"
    )
    add("show", "Everything about one of them, and what it wrote when it ran.").add_argument(
        "name", metavar="NAME", help=_NAME
    )
    install = add("install", "Install something that is available.")
    install.add_argument("name", metavar="NAME", help=_NAME)
    install.add_argument("--wait", action="store_true", help="stay until it is done")
    postpone = add("postpone", "Put something off that is about to run, within what your administrator allows.")
    postpone.add_argument("name", metavar="NAME", help=_NAME)
    postpone.add_argument("until", nargs="?", metavar="TIME", help=_TIME)
    add("cancel", "Take back what you asked for, as long as it has not begun.").add_argument(
        "name", metavar="NAME", help=_NAME
    )
    restart = add("restart", "The restart that this computer needs: see it, choose it, put it off.")
    choice = restart.add_mutually_exclusive_group()
    choice.add_argument("--now", action="store_true", help="restart now; save your work first")
    choice.add_argument("--later", nargs="?", const="", metavar="TIME", help=_TIME)
    add("watch", "Watch what happens, with progress and countdowns, until Ctrl-C.")
    add("why", "Why something did or did not happen.").add_argument("name", metavar="NAME", help=_NAME)
    add("history", "Everything that ran here with administrator rights.")
    add("status", "Whether this computer is managed, and how it stands.")
    add("completion", "Print a script that completes commands and names in a shell.").add_argument(
        "shell", choices=SHELLS, help="bash: source <(pcmapp completion bash)"
    )
    names = add("names", "The names that can stand behind a command; for the scripts of completion.")
    names.add_argument("behind", nargs="?", default="show", metavar="COMMAND", help="default: show")
    return made


def socket_path(home: Path | None) -> Path:
    """Where the service listens."""
    return home / "run" / SOCKET_NAME if home is not None else Path(DEFAULT_SOCKET)


def run(arguments: Sequence[str]) -> int:
    """Do what one command line says; the exit code."""
    try:
        given = parser().parse_args(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    path = socket_path(getattr(given, "home", None))
    try:
        return verbs.VERBS[given.verb](Call(path, Screen(sys.stdout), getattr(given, "json", False), given))
    except PcmError as error:
        return _tell(error, path)
    except KeyboardInterrupt:
        if given.verb == "watch":
            return DONE  # that is how one leaves it
        print("Stopped watching; the service goes on by itself.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def _tell(error: PcmError, path: Path) -> int:
    screen = Screen(sys.stderr)
    if error.code == "local.unreachable" and not path.exists():
        screen.line(f"The PCM service is not running on this computer: nothing listens at {path}.", RED)
        screen.line(
            "An administrator starts it (under systemd: systemctl start pcmsvc); `pcmsvc check` says what it lacks."
        )
        return UNREACHABLE
    screen.line(f"{error.message} [{error.code}]", RED)
    if error.code in _CODES:
        return _CODES[error.code]
    return UNREACHABLE if isinstance(error, TransferError) else USAGE if error.code == "usage" else REFUSED


def main() -> int:
    """Entry point of the `pcmapp` program."""
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
