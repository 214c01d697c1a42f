"""Writes docs/commands.md from what the programs say about themselves: `python -m tools.command_reference [FILE]`.

A developer's tool; a test holds the checked-in page equal to what this makes.
"""

import argparse
import sys
from pathlib import Path

import click

from pcm.app.main import parser as pcmapp
from pcm.cli.main import root
from pcm.service.main import parser as pcmsvc

PAGE = Path(__file__).resolve().parents[1] / "docs" / "commands.md"
WIDTH = 100
_HEAD = """\
# Commands

Made from `--help` by `python -m tools.command_reference`; do not edit. Exit codes of `pcm` and `pcmapp`: 0 done, 1 refused,
2 usage, 3 not found, 4 not allowed, 5 unreachable; of `pcmsvc` also 6 already running, 130 Ctrl-C.
"""


def page() -> str:
    """The whole page."""
    administrators = _commands(root, _context(root, "pcm", None))
    return "\n".join([_HEAD, *administrators, *_of_argparse(pcmapp()), *_of_argparse(pcmsvc())])


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    return click.Context(
        command, parent, name, terminal_width=WIDTH, max_content_width=WIDTH, help_option_names=["-h", "--help"]
    )


def _commands(command: click.Command, context: click.Context) -> list[str]:
    """One section for a command, then one for each below it."""
    level = "##" if context.parent is None or isinstance(command, click.Group) else "###"
    written = [f"{level} {context.command_path}\n\n```\n{_plain(command.get_help(context))}\n```\n"]
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            written += _commands(below, _context(below, name, context))
    return written


def _plain(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().split("\n"))


def _of_argparse(made: argparse.ArgumentParser) -> list[str]:
    made.formatter_class = _Formatter
    written = [f"## {made.prog}\n\n```\n{_plain(made.format_help())}\n```\n"]
    for action in made._actions:  # noqa: SLF001 - argparse has no other way to its subcommands
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for name, below in action.choices.items():
                below.formatter_class = _Formatter
                written.append(f"### {made.prog} {name}\n\n```\n{_plain(below.format_help())}\n```\n")
    return written


class _Formatter(argparse.HelpFormatter):
    """Lines of the same length whatever terminal this runs in."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=WIDTH, max_help_position=30)


def main(arguments: list[str]) -> int:
    """Write the page; 0, or 2 for a wrong call."""
    if len(arguments) > 1:
        print("usage: python -m tools.command_reference [FILE]", file=sys.stderr)
        return 2
    path = Path(arguments[0]) if arguments else PAGE
    path.write_text(page(), encoding="utf-8")
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
