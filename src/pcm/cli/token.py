"""`pcm token`: API tokens of people and programs: create, list, revoke. Serves step 3: who may ask the site for what."""

from pathlib import Path
from typing import Any, get_args

import click

from pcm.cli import show
from pcm.cli.api import segment
from pcm.cli.ask import confirm
from pcm.cli.contexts import write_private
from pcm.cli.duration import DURATION
from pcm.cli.settings import Settings
from pcm.cli.verbs import Noun
from pcm.protocol.admin import ApiTokenAnswer, ApiTokenRequest, ApiTokenView, Role
from pcm.protocol.printable import printable


@click.group("token", cls=Noun)
def command() -> None:
    """API tokens of people and programs."""


@command.command("create")
@click.argument("name")
@click.option("--role", type=click.Choice(get_args(Role)), default="viewer", show_default=True, help="What it may do.")
@click.option("--expires-in", type=DURATION, default="30d", show_default=True, help="How long it counts.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the token to this file (0600).")
@click.pass_obj
def create(settings: Settings, name: str, role: Any, expires_in: int, out: Path | None) -> None:
    """Make a token for NAME. It is shown this once; the site cannot show it again."""
    with settings.connect() as api:
        answer = api.post("/api-tokens", ApiTokenRequest(name, role, expires_in), ApiTokenAnswer)
    if out is not None:
        write_private(out, answer.token.encode() + b"\n")
        text = f"{out} holds the token of {name}, until {show.moment(answer.expires)}."
        show.print_done(settings, text, id=answer.id, file=str(out), expires=answer.expires)
    elif not show.print_data(answer, settings.output):
        show.say(f"Token {answer.id} of {name}, role {role}, until {show.moment(answer.expires)}:")
        click.echo(printable(answer.token))


@command.command("list")
@click.pass_obj
def list_tokens(settings: Settings) -> None:
    """List tokens; never the tokens themselves."""
    with settings.connect() as api:
        tokens = list(api.pages("/api-tokens", ApiTokenView))
    if show.print_data(tokens, settings.output):
        return
    rows = [
        (t.id, show.plain(t.name), t.role, "revoked" if t.revoked else f"until {t.expires:%Y-%m-%d}") for t in tokens
    ]
    show.print_table(("token", "~name", "role", "counts"), rows, none="There is no token.")


@command.command("revoke")
@click.argument("token")
@click.pass_obj
def revoke(settings: Settings, token: str) -> None:
    """Revoke a token by its id: it stops counting at once."""
    confirm(settings, f"Token {token} will stop counting at once, for good.")
    with settings.connect() as api:
        api.delete(f"/api-tokens/{segment(token)}")
    show.print_done(settings, f"Revoked {token}.", id=token)
