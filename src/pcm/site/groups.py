"""Simple groups: `all`, which every site has, and groups that list their clients.

Serves steps 3 and 4. Who joins a group later gets its active jobs too (`job_life.join`), so membership and jobs
never drift apart.
"""

from datetime import datetime

from sqlalchemy import Connection, delete, func, insert, select, update

from pcm.model.errors import RequestError
from pcm.model.names import check_name
from pcm.protocol.admin import Page
from pcm.protocol.admin_jobs import GroupOrder, GroupView
from pcm.site import audit, job_life
from pcm.site.db.tables import AnyRow, clients, group_members, groups, jobs
from pcm.site.pages import Slice, page
from pcm.site.targeting import Candidate

ALL = "all"
_CANDIDATE = (clients.c.id, clients.c.client_id, clients.c.host_name, clients.c.platform, clients.c.state)


def ensure_all(connection: Connection, now: datetime) -> None:
    """Make the group `all` if it is not there."""
    if connection.execute(select(groups.c.id).where(groups.c.name == ALL)).first() is None:
        connection.execute(insert(groups).values(name=ALL, kind="all", created=now))


def find(connection: Connection, name: str) -> AnyRow:
    """One group. Raises RequestError `not_found`."""
    row = connection.execute(select(groups).where(groups.c.name == name[:63])).first()
    if row is None:
        raise RequestError(f"There is no group {name[:63]!r}. `pcm group list` shows what there is.", code="not_found")
    return row


def candidates(connection: Connection, group: AnyRow) -> list[Candidate]:
    """All clients of a group, whatever their state, by dense id. Revoked ones are no members of `all`."""
    query = select(*_CANDIDATE).order_by(clients.c.id)
    if group.kind == "names":
        query = query.join(group_members, group_members.c.client == clients.c.id)
        query = query.where(group_members.c.group_id == group.id)
    else:
        query = query.where(clients.c.state != "revoked")
    return [Candidate(*row) for row in connection.execute(query)]


def create(connection: Connection, order: GroupOrder, actor: str, now: datetime) -> None:
    """Make a group.

    Raises:
        RequestError: `request.name`, `conflict`, `request.group`, `not_found` for an unknown client.
    """
    check_name("group", order.name)
    if order.kind != "names":
        raise RequestError("The group `all` exists already; a new group lists its clients.", code="request.group")
    if connection.execute(select(groups.c.id).where(groups.c.name == order.name)).first() is not None:
        raise RequestError(f"There is already a group {order.name}.", code="conflict")
    key = connection.execute(insert(groups).values(name=order.name, kind="names", created=now)).inserted_primary_key
    assert key is not None
    members = _ids_of(connection, order)
    _add(connection, key[0], members)
    audit.record(connection, now, actor, "group.create", order.name, f"{len(members)} clients")


def replace(connection: Connection, name: str, order: GroupOrder, actor: str, now: datetime) -> None:
    """Give a group another list of clients. New members get its active jobs; who leaves keeps what it was given.

    Raises:
        RequestError: `request.group` for `all`; `not_found`; `conflict`: somebody else changed it since (KB Q122382).
    """
    group = find(connection, name)
    if group.kind != "names" or order.kind != "names" or order.name != name:
        raise RequestError("Only the clients of a group that lists them can be changed.", code="request.group")
    seen = group.revision if order.revision is None else order.revision
    ours = (groups.c.id == group.id) & (groups.c.revision == seen)
    if connection.execute(update(groups).where(ours).values(revision=groups.c.revision + 1)).rowcount != 1:
        raise RequestError(
            f"Group {name} was changed since you looked at it (revision {group.revision}, yours is {seen}). Look again.",
            code="conflict",
        )
    wanted = set(_ids_of(connection, order))
    here = set(connection.execute(select(group_members.c.client).where(group_members.c.group_id == group.id)).scalars())
    gone = sorted(here - wanted)
    for start in range(0, len(gone), 500):
        connection.execute(
            delete(group_members).where(
                group_members.c.group_id == group.id, group_members.c.client.in_(gone[start : start + 500])
            )
        )
    fresh = sorted(wanted - here)
    _add(connection, group.id, fresh)
    for client in fresh:
        job_life.join(connection, client, now)
    audit.record(connection, now, actor, "group.replace", name, f"{len(fresh)} added, {len(gone)} removed")


def remove(connection: Connection, name: str, actor: str, now: datetime) -> None:
    """Remove a group that no active job needs.

    Raises:
        RequestError: `request.group` for `all`; `conflict` naming the job; `not_found`.
    """
    group = find(connection, name)
    if group.kind != "names":
        raise RequestError("The group `all` cannot be removed.", code="request.group")
    job = connection.execute(
        select(jobs.c.id).where(jobs.c.group_name == name, jobs.c.state == "active").limit(1)
    ).scalar()
    if job is not None:
        raise RequestError(f"Job {job} is active on group {name}; cancel it first.", code="conflict")
    connection.execute(delete(groups).where(groups.c.id == group.id))
    audit.record(connection, now, actor, "group.remove", name)


def list_groups(connection: Connection, part: Slice) -> Page[GroupView]:
    """Groups by name, with their sizes."""
    query = select(groups).order_by(groups.c.name).limit(part.limit + 1)
    if part.cursor is not None:
        query = query.where(groups.c.name > part.cursor)
    rows = connection.execute(query).all()
    return page(
        rows,
        part,
        lambda row: GroupView(row.name, row.kind, _size(connection, row), (), row.revision),
        lambda row: str(row.name),
    )


def show(connection: Connection, name: str) -> GroupView:
    """One group with the clients that it lists. Raises RequestError `not_found`."""
    group = find(connection, name)
    listed: tuple[str, ...] = ()
    if group.kind == "names":
        listed = tuple(candidate.client_id for candidate in candidates(connection, group))
    return GroupView(group.name, group.kind, _size(connection, group), listed, group.revision)


def names_of(connection: Connection, client: int) -> tuple[str, ...]:
    """Names of the groups that a client belongs to."""
    member = select(group_members.c.group_id).where(group_members.c.client == client)
    query = select(groups.c.name).where((groups.c.kind == "all") | groups.c.id.in_(member)).order_by(groups.c.name)
    return tuple(connection.execute(query).scalars())


def _size(connection: Connection, group: AnyRow) -> int:
    if group.kind == "all":
        query = select(func.count()).select_from(clients).where(clients.c.state != "revoked")
    else:
        query = select(func.count()).select_from(group_members).where(group_members.c.group_id == group.id)
    return connection.execute(query).scalar_one()


def _ids_of(connection: Connection, order: GroupOrder) -> list[int]:
    names = [check_name("client", name) for name in dict.fromkeys(order.clients)]
    found: dict[str, int] = {}
    for start in range(0, len(names), 500):
        rows = connection.execute(
            select(clients.c.client_id, clients.c.id).where(clients.c.client_id.in_(names[start : start + 500]))
        )
        found.update((row.client_id, row.id) for row in rows)
    for name in names:
        if name not in found:
            raise RequestError(f"There is no client {name}. `pcm client list` shows them.", code="not_found")
    return [found[name] for name in names]


def _add(connection: Connection, group: int, members: list[int]) -> None:
    if members:
        connection.execute(insert(group_members), [{"group_id": group, "client": client} for client in members])
