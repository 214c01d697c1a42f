"""`pcm audit`: who did what, and when, and whether the record is whole. Serves step 3 and everything that changes a site."""

from itertools import pairwise

import click

from pcm.cli import show
from pcm.cli.settings import Settings
from pcm.cli.verbs import Verb
from pcm.protocol.admin import AuditRow


@click.command("audit", cls=Verb)
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="The newest so many rows.")
@click.pass_obj
def command(settings: Settings, limit: int) -> None:
    """Show the audit log, newest first, and check that its chain holds."""
    with settings.connect() as api:
        rows = list(api.pages("/audit", AuditRow, limit))
    if show.print_data(rows, settings.output):
        return
    columns = (">seq", "when", "~who", "~what", "detail")
    shown = [
        (r.seq, r.at, show.plain(r.actor), show.plain(f"{r.action} {r.subject}"), show.plain(r.detail)) for r in rows
    ]
    show.print_table(columns, shown, none="Nothing has happened yet.")
    broken = next((newer.seq for newer, older in pairwise(rows) if newer.prev_sha256 != older.sha256), None)
    if broken is not None:
        click.echo(
            click.style(f"The chain is broken at row {broken}: a row was changed or removed.", fg="red"), err=True
        )
