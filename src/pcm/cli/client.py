"""`pcm client`: list, show, why, approve, revoke, resume, token, kit, installer.

Enrolment, and the site's half of 'why' (steps 3 to 12).
"""

from pathlib import Path
from typing import Any, get_args

import click

from pcm.cli import show
from pcm.cli.api import segment
from pcm.cli.ask import confirm
from pcm.cli.contexts import write_private
from pcm.cli.duration import DURATION
from pcm.cli.installer import installer
from pcm.cli.settings import Settings
from pcm.cli.verbs import Noun
from pcm.model.errors import RequestError
from pcm.protocol import codec
from pcm.protocol.admin import ClientDetail, ClientState, ClientView, EnrolmentTokenAnswer, EnrolmentTokenRequest, Why
from pcm.protocol.enrolment import ClientConfiguration
from pcm.protocol.printable import printable

FILE = click.Path(dir_okay=False, path_type=Path)


@click.group("client", cls=Noun)
def command() -> None:
    """Managed computers. CLIENT is an id, the beginning of one, or a host name."""


command.add_command(installer)


@command.command("list")
@click.option("--state", type=click.Choice(get_args(ClientState)), help="Only those.")
@click.option("--gap", is_flag=True, help="Only those with a report missing before their newest: see `resume`.")
@click.option("--ledger-broken", is_flag=True, help="Only those whose ledger was rewritten: see `accept-ledger`.")
@click.option("--limit", type=click.IntRange(1), default=None, help="At most so many.")
@click.pass_obj
def list_clients(settings: Settings, state: Any, gap: bool, ledger_broken: bool, limit: int | None) -> None:
    """List clients."""
    wanted = {"state": state, "gap": "true" if gap else None, "ledger_broken": "true" if ledger_broken else None}
    with settings.connect() as api:
        clients = list(api.pages("/clients", ClientView, limit, **wanted))
    if show.print_data(clients, settings.output):
        return
    rows = [
        (
            show.plain(c.host_name),
            c.client_id[:12],
            c.state if c.ledger_broken is None else f"{c.state}, ledger broken",
            c.platform,
            show.plain(f"{c.os_name} {c.os_version}"),
            show.ago(c.last_seen),
        )
        for c in clients
    ]
    none = (
        "No client is like that."
        if state or gap or ledger_broken
        else "No client has enrolled yet. Next: pcm client kit, then pcm client token"
    )
    show.print_table(("host", "client", "state", "platform", "~system", "last seen"), rows, none=none)


@command.command("show")
@click.argument("client")
@click.pass_obj
def show_client(settings: Settings, client: str) -> None:
    """Show a client, its assignments, and what it refused."""
    with settings.connect() as api:
        detail = api.get(f"/clients/{segment(client)}", ClientDetail)
    if show.print_data(detail, settings.output):
        return
    view = detail.client
    behind = "" if view.stands_on == view.serial else " (the site has newer instructions for it)"
    show.print_facts(
        (
            ("host", show.plain(view.host_name)),
            ("client", view.client_id),
            ("state", view.state),
            ("fingerprint", detail.fingerprint),
            ("platform", show.plain(view.platform)),
            ("system", show.plain(f"{view.os_name} {view.os_version}".strip())),
            ("agent", show.plain(view.agent_version)),
            ("enrolled", view.created),
            ("last seen", show.ago(view.last_seen)),
            ("stands on", f"instructions {view.stands_on}{behind}" if view.stands_on else "no instructions yet"),
            ("groups", show.plain(", ".join(detail.groups))),
            ("note", show.plain(detail.note) if detail.note else ""),
            ("ledger", _ledger(detail)),
        )
    )
    rows = [
        (a.job, a.state, show.plain(f"{a.program} {a.package} {a.version}"), show.ago(a.changed), show.plain(a.reason))
        for a in detail.assignments
    ]
    show.print_table(("job", "state", "~order", "changed", "reason"), rows, none="No job is for it.")
    # a source is a server's address, or the instruction that was refused
    show.print_refusals(
        (r.code, r.count, r.at, f"{'from' if '/' in r.source else 'in'} {r.source}", r.reason) for r in detail.refusals
    )


def _ledger(detail: ClientDetail) -> Any:
    entries = f"{detail.ledger_total} {'entry' if detail.ledger_total == 1 else 'entries'}"
    head = f", head {detail.ledger_head[:16]}…" if detail.ledger_head else ""
    if detail.client.ledger_broken is None:
        return f"{entries}{head}" if detail.ledger_total else ""
    since = show.moment(detail.client.ledger_broken)
    return show.plain(f"BROKEN since {since}: {detail.ledger_note}. Once looked at: pcm client accept-ledger")


@command.command("why")
@click.argument("client")
@click.option("--job", help="Ask about one job only.")
@click.pass_obj
def why(settings: Settings, client: str, job: str | None) -> None:
    """Say why something did or did not run there.

    This is the site's half; `pcmsvc why` on the client knows the other.
    """
    with settings.connect() as api:
        trace = api.get(f"/clients/{segment(client)}/why", Why, job=job)
    if show.print_data(trace, settings.output):
        return
    click.echo(printable(f"{trace.host_name} ({trace.client_id[:12]}){f', job {trace.job}' if trace.job else ''}"))
    for line in trace.lines:
        mark = {True: click.style("✓", fg="green"), False: click.style("✗", fg="red"), None: "·"}[line.holds]
        code = click.style(f" [{printable(line.code)}]", dim=True) if line.code else ""
        click.echo(f"  {mark} {printable(line.question)}: {printable(line.answer)}{code}")


@command.command("approve")
@click.argument("client")
@click.option("--fingerprint", help="What the client's screen shows; compared before approving.")
@click.pass_obj
def approve(settings: Settings, client: str, fingerprint: str | None) -> None:
    """Let a waiting computer in, after comparing its fingerprint with its own screen."""
    with settings.connect() as api:
        detail = api.get(f"/clients/{segment(client)}", ClientDetail)
        if fingerprint is not None and _bare(fingerprint) != _bare(detail.fingerprint):
            raise RequestError(
                f"{show.one_line(detail.client.host_name)} has the fingerprint {detail.fingerprint}, not the one given: this is "
                "not the computer that you mean. Not approved.",
                code="client.fingerprint",
            )
        if fingerprint is None:
            confirm(
                settings,
                f"{show.one_line(detail.client.host_name)} ({detail.client.client_id[:12]}) will be a client of this site.\n"
                f"Fingerprint: {detail.fingerprint} - compare it with what the computer shows.",
            )
        view = api.post(f"/clients/{detail.client.client_id}/approve", None, ClientDetail).client
    if not show.print_data(view, settings.output):
        click.echo(printable(f"{view.host_name} is {view.state}."))


def _bare(fingerprint: str) -> str:
    return "".join(c for c in fingerprint.lower() if c.isalnum())


@command.command("revoke")
@click.argument("client")
@click.pass_obj
def revoke(settings: Settings, client: str) -> None:
    """Take a computer out for good: its key stops counting, it gets no instructions. Software on it stays."""
    with settings.connect() as api:
        view = api.get(f"/clients/{segment(client)}", ClientDetail).client
        confirm(
            settings,
            f"{show.one_line(view.host_name)} ({view.client_id[:12]}, {view.state}) will be revoked: its key stops counting "
            "for good. To come back it needs another: `pcmsvc enroll --new-key`. What is installed there stays.",
        )
        view = api.post(f"/clients/{view.client_id}/revoke", None, ClientDetail).client
    if not show.print_data(view, settings.output):
        click.echo(printable(f"{view.host_name} is {view.state}."))


@command.command("resume")
@click.argument("client", required=False)
@click.option("--all", "every", is_flag=True, help="All clients whose reports wait for one that is missing.")
@click.pass_obj
def resume(settings: Settings, client: str | None, every: bool) -> None:
    """Let a client's reports go on although some before are missing.

    A client numbers and chains its reports, and the site takes the next one only. After the site's database was restored
    from a backup, the reports taken since the backup are missing here for ever, and so nothing more is taken: this accepts that,
    and the next report goes on. Instructions go on above what the client has seen. What the lost reports said stays unknown.

    If nothing was restored, look first: somebody may have kept reports back on their way. The audit log keeps who resumed.
    """
    if (client is None) != every:
        raise RequestError("Name one CLIENT, or say --all.", code="usage")
    with settings.connect() as api:
        if client is not None:
            views = [api.get(f"/clients/{segment(client)}", ClientDetail).client]
        else:
            views = list(api.pages("/clients", ClientView, gap="true"))
        named = ", ".join(f"{show.one_line(view.host_name)} ({view.client_id[:12]})" for view in views[:5])
        more = f" and {len(views) - 5} more" if len(views) > 5 else ""
        if views:
            confirm(settings, f"Reports of {named}{more} will go on, and what the missing ones said stays unknown.")
        for view in views:
            api.post(f"/clients/{view.client_id}/resume", None, ClientDetail)
    show.print_done(settings, f"{len(views)} clients go on.", clients=[view.client_id for view in views])


@command.command("accept-ledger")
@click.argument("client")
@click.pass_obj
def accept_ledger(settings: Settings, client: str) -> None:
    """Accept a client's ledger as it is now, after its past was found rewritten.

    A client's ledger names everything that ran there as administrator, and only ever grows; each report says how it grew. If what
    was there before is missing or different, somebody with administrator rights there has rewritten it, or its database was lost
    or restored from a backup. Look there first: `pcmsvc ledger verify`. The audit log keeps what was found, and who accepted it.
    """
    with settings.connect() as api:
        detail = api.get(f"/clients/{segment(client)}", ClientDetail)
        view = detail.client
        if view.ledger_broken is not None:
            named = f"{show.one_line(view.host_name)} ({view.client_id[:12]})"
            confirm(
                settings, f"The ledger of {named} will count as it is now, although {show.plain(detail.ledger_note)}."
            )
        api.post(f"/clients/{view.client_id}/accept-ledger", None, ClientDetail)
    show.print_done(settings, f"The ledger of {show.one_line(view.host_name)} counts as it is.", client=view.client_id)


@command.command("token")
@click.option("--expires-in", type=DURATION, default="1d", show_default=True, help="How long it counts.")
@click.option("--host", help="Only a computer of this name may use it.")
@click.option("--out", type=FILE, help="Write it to this file (0600).")
@click.pass_obj
def token(settings: Settings, expires_in: int, host: str | None, out: Path | None) -> None:
    """Make an enrolment token: one computer, once. It is shown this once."""
    with settings.connect() as api:
        answer = api.post("/enrolment-tokens", EnrolmentTokenRequest(expires_in, host), EnrolmentTokenAnswer)
    if out is not None:
        write_private(out, answer.token.encode() + b"\n")
        text = f"{out} holds an enrolment token for one computer, until {show.moment(answer.expires)}."
        show.print_done(settings, text, file=str(out), expires=answer.expires)
    elif not show.print_data(answer, settings.output):
        show.say(
            f"For one computer, once, until {show.moment(answer.expires)}. There: pcmsvc enroll --kit KIT --token …"
        )
        click.echo(printable(answer.token))


@command.command("kit")
@click.option("--out", type=FILE, help="Write it to this file. Default: standard output.")
@click.pass_obj
def kit(settings: Settings, out: Path | None) -> None:
    """Get the enrolment kit: servers and both pinned roots. Bring it to clients by a way that you trust; it holds no secret."""
    with settings.connect() as api:
        configuration = api.get("/kit", ClientConfiguration)
    data = codec.encode(configuration) + b"\n"
    if out is None:
        click.echo(data, nl=False)
        return
    write_private(out, data).chmod(0o644)
    text = f"{out}: kit of site {configuration.site}. On the computer: pcmsvc enroll --kit {out.name} --token …"
    show.print_done(settings, text, file=str(out), site=configuration.site)
