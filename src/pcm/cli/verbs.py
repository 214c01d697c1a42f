"""What all verbs have in common: the options that stand everywhere, and nouns that load when they are used.

Serves every verb, before its own code. `pcm --help` must answer at once, so a noun's file (and what it imports) is loaded only
when that noun is named. Parse, call, show: a verb's file does nothing else.
"""

import importlib
from collections.abc import Sequence
from typing import Any

import click

from pcm.cli.settings import Settings


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Note an everywhere-option in the settings; one given after the verb wins over one before it."""
    if value is not None and value is not False:
        setattr(context.ensure_object(Settings), str(parameter.name), value)


def _keep_json(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Settings).output = "json"


def everywhere() -> list[click.Option]:
    """Fresh copies of the options that every verb and noun takes."""
    kept: dict[str, Any] = {"expose_value": False, "callback": _keep}
    outputs = click.Choice(["table", "json", "yaml"])
    return [
        click.Option(["-s", "--site"], metavar="URL", help="The site: its URL, or its folder on this machine.", **kept),
        click.Option(["--token-file"], metavar="FILE", help="File with the API token.", **kept),
        click.Option(["-c", "--context"], metavar="NAME", help="A site from `pcm context list`.", **kept),
        click.Option(["-o", "--output"], type=outputs, help="How to show results.", **kept),
        click.Option(["--json"], is_flag=True, expose_value=False, callback=_keep_json, help="Same as --output json."),
        click.Option(["-y", "--yes"], is_flag=True, help="Do not ask before changes.", **kept),
        click.Option(
            ["--ca-file"], metavar="FILE", help="Authority to trust for https (PEM), not the system's.", **kept
        ),
        click.Option(["--insecure-http"], is_flag=True, help="Send the token over plain http.", **kept),
        click.Option(["--debug"], is_flag=True, help="Show where an error came from.", **kept),
    ]


def write_options(command: click.Command, context: click.Context, formatter: click.HelpFormatter) -> None:
    """Write a command's own options, then those that stand everywhere: in full for `pcm` itself only."""
    names = {option.name for option in everywhere()}
    options = [option for option in command.get_params(context) if isinstance(option, click.Option)]
    for title, chosen in (
        ("Options", [option for option in options if option.name not in names]),
        ("Everywhere", [option for option in options if option.name in names]),
    ):
        if title == "Everywhere" and context.parent is not None:
            with formatter.section(title):
                formatter.write_text(
                    "-s URL, --token-file FILE, -c NAME, -o FORMAT, --json, -y, --debug: see pcm --help"
                )
            continue
        rows = [record for option in chosen if (record := option.get_help_record(context)) is not None]
        if rows:
            with formatter.section(title):
                formatter.write_dl(rows)


class Verb(click.Command):
    """One verb, with the everywhere-options."""

    def __init__(self, *positional: Any, **named: Any) -> None:
        super().__init__(*positional, **named)
        self.params += everywhere()

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See `write_options`."""
        write_options(self, ctx, formatter)


class Noun(click.Group):
    """One noun: its verbs. Usually all in one file."""

    command_class = Verb

    def __init__(self, *positional: Any, **named: Any) -> None:
        super().__init__(*positional, **named)
        self.params += everywhere()

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See `write_options`; commands come last."""
        write_options(self, ctx, formatter)
        self.format_commands(ctx, formatter)


class Nouns(click.Group):
    """All nouns, by name: the module where each is, and one line about it. A module is imported when its noun is asked for."""

    def __init__(self, *positional: Any, lazily: dict[str, tuple[str, str]], **named: Any) -> None:
        super().__init__(*positional, **named)
        self.params += everywhere()
        self._lazily = lazily

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See `write_options`; commands come last."""
        write_options(self, ctx, formatter)
        self.format_commands(ctx, formatter)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Names, in the order of the table: the order of work, not of the alphabet."""
        return list(self._lazily)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Load a noun."""
        if cmd_name not in self._lazily:
            return None
        module = importlib.import_module(self._lazily[cmd_name][0])
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the nouns without loading any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in self._lazily.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the noun; for an unknown one, say which was perhaps meant."""
        if args and args[0] not in self._lazily and not args[0].startswith("-"):
            raise click.UsageError(f"No such command {args[0]!r}.{suggestion(args[0], list(self._lazily))}", ctx)
        return super().resolve_command(ctx, args)


def suggestion(word: str, known: Sequence[str]) -> str:
    """' Did you mean …?', or nothing."""
    import difflib  # noqa: PLC0415 - only after a mistake

    close = difflib.get_close_matches(word[:60], known, 1, 0.6)
    return f" Did you mean {close[0]}?" if close else ""
