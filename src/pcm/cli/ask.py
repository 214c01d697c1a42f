"""Asking people: before something is destroyed, and for passphrases, which are never shown.

Serves verbs that change things and those that sign. Without a terminal nothing is asked: what needs a yes is refused, so
that a script never hangs.
"""

import os
import sys
from pathlib import Path

import click

from pcm.cli.settings import Settings
from pcm.cli.show import say
from pcm.model.errors import RequestError
from pcm.trust.keys import Ask

VARIABLE = "PCM_KEY_PASSPHRASE"
_LEAST = 8


def confirm(settings: Settings, what: str) -> None:
    """Say what will be touched, and go on only after a yes. A program that has said yes already is told nothing.

    Raises:
        RequestError: `not_confirmed`.
    """
    if settings.yes and settings.output != "table":
        return
    say(what)
    if settings.yes:
        return
    if not sys.stdin.isatty():
        raise RequestError("Nobody is there to ask; say --yes if that is meant.", code="not_confirmed")
    if not click.confirm("Go on?", default=False, err=True):
        raise RequestError("Left as it was.", code="not_confirmed")


def passphrase(file: str | None, *, new: bool) -> Ask:
    """How the passphrase of offline keys comes here: a file, the environment, or a prompt; asked at most once.

    Args:
        file: `--passphrase-file`, its first line; '-' reads standard input.
        new: For new keys: a prompt asks twice, and a short one is refused.

    Raises:
        RequestError: `request.passphrase`, when it is called.
    """
    kept: list[str] = []

    def ask() -> str:
        if not kept:
            kept.append(_checked(_read(file, new=new), new=new))
        return kept[0]

    return ask


def _read(file: str | None, *, new: bool) -> str:
    if file == "-":
        return sys.stdin.readline().rstrip("\r\n")
    if file is not None:
        try:
            lines = Path(file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise RequestError(
                f"The passphrase file {file} cannot be read: {why}.", code="request.passphrase"
            ) from None
        return lines[0] if lines else ""
    given = os.environ.get(VARIABLE)
    if given is not None:
        return given
    if not sys.stdin.isatty():
        raise RequestError(
            f"A passphrase is needed and nobody is there to ask: give --passphrase-file or {VARIABLE}.",
            code="request.passphrase",
        )
    typed: str = click.prompt(
        "Passphrase of the new keys" if new else "Passphrase", hide_input=True, confirmation_prompt=new, err=True
    )
    return typed


def _checked(text: str, *, new: bool) -> str:
    if not text:
        raise RequestError("The passphrase is empty.", code="request.passphrase")
    if new and len(text) < _LEAST:
        raise RequestError(
            f"The passphrase is shorter than {_LEAST} characters: these keys decide what runs on the whole fleet.",
            code="request.passphrase",
        )
    return text
