"""`pcm status`: the site at a glance. Serves step 12: what came of everything."""

from collections.abc import Iterable
from datetime import UTC, datetime

import click

from pcm.cli import show
from pcm.cli.settings import Settings
from pcm.cli.verbs import Verb
from pcm.model.content_policy import ContentPolicy
from pcm.protocol.admin import ExpiringRole, SiteStatus
from pcm.protocol.durations import show_duration


@click.command("status", cls=Verb)
@click.pass_obj
def command(settings: Settings) -> None:
    """Show how the site is: clients, assignments, servers."""
    show_status(settings)


def show_status(settings: Settings) -> None:
    """Ask the site and show its answer; also `pcm site status`."""
    with settings.connect() as api:
        status = api.get("/site", SiteStatus)
    if show.print_data(status, settings.output):
        return
    show.print_facts(
        (
            ("site", show.plain(status.name)),
            ("version", show.plain(status.version)),
            ("up for", show_duration(int(status.uptime_s))),
            ("packages", status.packages),
            ("jobs", status.jobs),
            ("to compile", f"{status.dirty} clients" if status.dirty else ""),
            ("set aside", set_aside(status.poison)),
            ("content", tell_policy(status.content)),
            (
                "behind",
                ", ".join(status.distribution_behind) + " (pcm distribution list)"
                if status.distribution_behind
                else "",
            ),
        )
    )
    counts = [("clients", state, count) for state, count in sorted(status.clients.items()) if count]
    counts += [("assignments", state, count) for state, count in sorted(status.assignments.items()) if count]
    show.print_table(("of", "state", ">count"), counts, none="No client has enrolled yet. Next: pcm client token")
    rows = [(s.name, s.kind, s.location, s.folder) for s in status.servers]
    show.print_table(("server", "kind", "~location", "static folder"), rows, none="It names no server.")
    warn_of(status.expiring)


def tell_policy(policy: ContentPolicy) -> str:
    """What clients may use for content, in a line."""
    parts = [f"{show.size(policy.rate)}/s" if policy.rate else "no limit of rate"]
    parts += [
        f"{show.size(hours.rate)}/s" * bool(hours.rate)
        + "no limit" * (not hours.rate)
        + f" {hours.start}–{hours.end}"
        + (f" {' '.join(hours.days)}" if hours.days else "")
        for hours in policy.hours
    ]
    metered = {"as_usual": "as usual", "wait": "wait", "limit": f"{show.size(policy.metered_rate)}/s"}
    parts.append(f"metered: {metered[policy.metered]}")
    if policy.store_bytes:
        parts.append(f"store {show.size(policy.store_bytes)}")
    parts += ["peers"] * policy.peers
    return ", ".join(parts)


def set_aside(count: int) -> str:
    """What could not be processed: what clients sent, or a client's file that could not be compiled."""
    if not count:
        return ""
    what = "report or instruction file" if count == 1 else "reports or instruction files"
    return f"{count} {what} that could not be processed"


def warn_of(roles: Iterable[ExpiringRole]) -> None:
    """Say what only offline keys can renew and soon must."""
    now = datetime.now(UTC)
    for role in roles:
        days = (role.expires - now).days
        when = f"runs out in {days} days" if role.expires > now else "has run out"
        team = role.role not in {"root", "targets"}
        remedy = f"pcm package refresh --team {role.role}" if team else f"pcm key renew {role.role} --in FOLDER"
        what = f"The list of team {role.role}" if team else f"{role.role} of {role.repository}"
        click.echo(click.style("! ", fg="red") + f"{what} {when} ({show.moment(role.expires)}). Renew: {remedy}")
