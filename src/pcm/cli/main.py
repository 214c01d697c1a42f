"""`pcm`, the administrator program: from the command line to an exit code.

Serves steps 1 to 3 and 12 for the administrator. It names the nouns, hands over to them, and turns every error into one
clear message and an exit code (see `exit_codes`). A fault of our own shows one line too; `--debug` shows where it is.
"""

import os
import sys
import traceback
from types import TracebackType

import click

from pcm.cli.exit_codes import DONE, INTERRUPTED, REFUSED, USAGE, exit_code
from pcm.cli.settings import Settings
from pcm.cli.verbs import Nouns
from pcm.model.errors import PcmError

NOUNS = {
    "site": ("pcm.cli.site", "Make a site, serve it, see how it is."),
    "key": ("pcm.cli.key", "Keys and signing ceremonies."),
    "package": ("pcm.cli.package", "Make, check, publish and withdraw packages."),
    "distribution": ("pcm.cli.distribution", "Distribution servers: how they stand, and copies of them."),
    "content": ("pcm.cli.content", "What lies on distribution servers: clean up, check, count."),
    "group": ("pcm.cli.group", "Groups of clients."),
    "job": ("pcm.cli.job", "Order programs onto groups, and follow them."),
    "client": ("pcm.cli.client", "Managed computers, and how they become so."),
    "status": ("pcm.cli.status", "The site at a glance."),
    "audit": ("pcm.cli.audit", "Who did what, and when."),
    "token": ("pcm.cli.token", "API tokens of people and programs."),
    "context": ("pcm.cli.context", "The sites that you work with."),
    "completion": ("pcm.cli.completion", "Shell completion."),
}


class _Debug:
    """Whether faults are shown whole; known only once the command line is parsed."""

    wanted = False


@click.group(
    cls=Nouns,
    lazily=NOUNS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    invoke_without_command=False,
)
@click.version_option(package_name="package-command-manager", prog_name="pcm", message="%(prog)s %(version)s")
@click.pass_context
def root(context: click.Context) -> None:
    """Package Command Manager: install and maintain software on a fleet, without giving users or servers any rights.

    A first site, from nothing:  pcm site init /srv/pcm
    """
    context.ensure_object(Settings)


def run(arguments: list[str]) -> int:
    """Do what one command line says.

    Returns:
        The exit code.
    """
    settings = Settings()
    try:
        root.main(arguments, prog_name="pcm", standalone_mode=False, obj=settings)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.UsageError as error:
        error.show()
        return USAGE
    except click.ClickException as error:
        error.show()
        return REFUSED
    except (click.Abort, KeyboardInterrupt):
        click.echo("Stopped; nothing was changed after this point.", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # whoever read our output has had enough (`| head`): that is not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except PcmError as error:
        _tell(error, settings)
        return exit_code(error)
    finally:
        _Debug.wanted = settings.debug
    return DONE


def _tell(error: PcmError, settings: Settings) -> None:
    from pcm.cli.show import show_error  # noqa: PLC0415 - only when something is wrong

    if settings.debug:
        traceback.print_exception(error)
    show_error(error, settings.output)


def _tell_fault(kind: type[BaseException], fault: BaseException, where: TracebackType | None) -> None:
    """Instead of a traceback that only programmers read."""
    if _Debug.wanted or "--debug" in sys.argv:
        traceback.print_exception(kind, fault, where)
    else:
        print(
            f"pcm: a fault of its own: {kind.__name__}: {fault}. Please report it, with what --debug shows.",
            file=sys.stderr,
        )


def main() -> int:
    """Entry point of the `pcm` program."""
    sys.excepthook = _tell_fault
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
