"""A command line that answers a misspelt command with the one that was meant. Pure, but for what argparse prints by itself.

Serves step 9 and whoever administers a client: `pcmapp` and `pcmsvc` are made of it. argparse by itself would list every command,
also those that only other programs give.
"""

import argparse
from collections.abc import Iterable
from typing import Any


class CommandLine(argparse.ArgumentParser):
    """argparse's parser, and so are those of its commands."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:  # noqa: SLF001 - no other way
            hint = nearest(str(value), action.choices)
            raise argparse.ArgumentError(
                None, f"there is no command {str(value)[:60]!r}.{hint} `{self.prog} --help` names them all."
            )
        super()._check_value(action, value)


def nearest(word: str, known: Iterable[str]) -> str:
    """' Did you mean …?', or nothing."""
    import difflib  # noqa: PLC0415 - only after a mistake

    close = difflib.get_close_matches(word[:60], list(known), 1, 0.6)
    return f" Did you mean {close[0]}?" if close else ""
