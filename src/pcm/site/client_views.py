"""One client as people see it, and the site's half of *why*: was it targeted, is it compiled, did it fetch, what did it refuse?

Serves steps 3 to 12, for whoever looks at them; the client's own half is `pcmsvc why`. Reads only.
"""

from collections.abc import Iterator
from datetime import datetime

from sqlalchemy import Connection, select

from pcm.model.errors import RequestError
from pcm.protocol.admin import ClientDetail, Why, WhyLine
from pcm.site import approvals, clients, groups
from pcm.site.db.tables import AnyRow, assignments, jobs, refusals
from pcm.site.db.tables_packages import package_versions
from pcm.site.enrolment import fingerprint
from pcm.site.job_views import SHOWN, assignment_rows, assignment_view, refusal_rows, refusal_view


def show(connection: Connection, client: AnyRow) -> ClientDetail:
    """Everything about one client."""
    mine = connection.execute(
        assignment_rows().where(assignments.c.client == client.id).order_by(assignments.c.id.desc()).limit(SHOWN)
    ).all()
    refused = connection.execute(
        refusal_rows().where(refusals.c.client == client.id).order_by(refusals.c.id.desc()).limit(SHOWN)
    ).all()
    return ClientDetail(
        client=clients.view(client),
        fingerprint=fingerprint(client.client_id),
        last_seq=client.last_seq,
        note=client.note,
        groups=groups.names_of(connection, client.id),
        assignments=tuple(map(assignment_view, mine)),
        refusals=tuple(map(refusal_view, refused)),
        ledger_total=client.ledger_total,
        ledger_head=client.ledger_head,
        ledger_note=client.ledger_note,
    )


def why(connection: Connection, client: AnyRow, job: str | None, now: datetime) -> Why:
    """The site's half of the decision trace, question by question.

    Raises:
        RequestError: `not_found`: no such job.
    """
    lines = [*_about_client(client, now)]
    if clients.find_gap(connection, client):
        lines.append(
            WhyLine(
                "Did its reports come one after the other?",
                f"no: there is one after {client.last_seq + 1}, which is missing. If the site's database was restored, "
                "`pcm client resume` goes on without it",
                False,
                clients.GAP,
            )
        )
    if client.ledger_broken is not None:
        told = f"no: {client.ledger_note} (since {_show(client.ledger_broken)}); see `pcm client accept-ledger`"
        lines.append(WhyLine("Is its ledger the one that it was?", told, False, "ledger.broken"))
    if job is not None:
        lines += _about_job(connection, client, job)
    refused = connection.execute(
        refusal_rows().where(refusals.c.client == client.id).order_by(refusals.c.id.desc()).limit(5)
    ).all()
    lines += [
        WhyLine("What was refused?", f"{row.reason} (received {_show(row.received)})", False, row.code)
        for row in refused
    ]
    return Why(client.client_id, client.host_name, job, tuple(lines))


def _about_client(client: AnyRow, now: datetime) -> Iterator[WhyLine]:
    note = f": {client.note}" if client.note else ""
    yield WhyLine("Is it enrolled?", f"{client.state}{note}", client.state == "enrolled")
    if client.last_seen is None:
        yield WhyLine("Has it reported?", "never", False)
    else:
        minutes = int((now - client.last_seen).total_seconds() // 60)
        yield WhyLine("Has it reported?", f"report {client.last_seq}, {minutes} minutes ago", True)
    if client.dirty or client.unwritten:
        yield WhyLine("Is its instruction file ready?", "it is being made", False)
    elif not client.serial:
        yield WhyLine("Is its instruction file ready?", "none was made yet", False)
    else:
        yield WhyLine("Is its instruction file ready?", f"serial {client.serial}", True)
        yield WhyLine(
            "Does it stand on the newest?",
            f"it last named serial {client.stands_on}" if client.stands_on else "it has named none yet",
            client.stands_on == client.serial,
        )


def _about_job(connection: Connection, client: AnyRow, job: str) -> Iterator[WhyLine]:
    row = connection.execute(
        select(jobs, package_versions.c.withdrawn, package_versions.c.version)
        .join(package_versions, package_versions.c.id == jobs.c.package_version)
        .where(jobs.c.id == job[:40])
    ).first()
    if row is None:
        raise RequestError(f"There is no job {job[:40]!r}. `pcm job list` shows what there is.", code="not_found")
    yield WhyLine("Is the job active?", row.state, row.state == "active")
    if row.withdrawn is not None:
        yield WhyLine("Is the package published?", f"{row.package} {row.version} was withdrawn", False)
    if row.approvals_needed:
        given = len(approvals.signers(connection, job))
        yield WhyLine("Is it approved?", f"{given} of {row.approvals_needed} approvals", given >= row.approvals_needed)
    mine = connection.execute(
        select(assignments).where(assignments.c.job == job, assignments.c.client == client.id)
    ).first()
    if mine is None:
        member = row.group_name in groups.names_of(connection, client.id)
        told = (
            "it was no client, or not enrolled, when the job was made"
            if member
            else f"it is not in group {row.group_name}"
        )
        yield WhyLine("Was it targeted?", told, False)
        return
    yield WhyLine("Was it targeted?", f"by group {row.group_name}", True)
    if mine.offered_serial is None:
        yield WhyLine("Is it in its instruction file?", "not yet", False)
    elif mine.withdrawn_serial is not None:
        yield WhyLine("Is it in its instruction file?", f"withdrawn with serial {mine.withdrawn_serial}", False)
    else:
        held = client.stands_on >= mine.offered_serial
        yield WhyLine("Is it in its instruction file?", f"since serial {mine.offered_serial}", True)
        yield WhyLine("Has the client fetched it?", "yes" if held else "it has not said so yet", held)
    state = "cancelling, until the client confirms" if mine.cancelling else mine.state
    reason = f": {mine.reason}" if mine.reason else ""
    yield WhyLine("What became of it?", f"{state}{reason} (since {_show(mine.changed)})", None, mine.code)


def _show(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")
