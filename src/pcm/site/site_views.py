"""The site as people see it: its counts, its keys, and the kit that a new client needs.

Serves every step from outside; `pcm site status`, `pcm key status`, `pcm client kit`. Reads only.
"""

from datetime import UTC, datetime
from importlib.metadata import version

from sqlalchemy import Connection, func, select
from tuf.api.metadata import Metadata, Targets

from pcm.protocol.admin import AuditRow, ExpiringRole, KeysStatus, KeyView, Page, RoleView, SiteStatus, expiring
from pcm.protocol.enrolment import ClientConfiguration
from pcm.site import audit, clients, content_views, job_views, repository, set_aside
from pcm.site.authority import Site
from pcm.site.configuration import read_authority
from pcm.site.db import tables
from pcm.site.db.tables_packages import packages
from pcm.site.pages import Slice, page
from pcm.trust import ceremony, keys

PROGRAM = "package-command-manager"


def status(connection: Connection, site: Site) -> SiteStatus:
    """Counts and servers."""
    now = site.clock()
    waiting = (
        select(func.count()).select_from(tables.clients).where(tables.clients.c.dirty | tables.clients.c.unwritten)
    )
    return SiteStatus(
        name=site.name,
        version=version(PROGRAM),
        started=site.started,
        uptime_s=(now - site.started).total_seconds(),
        servers=site.configuration.servers(),
        clients=clients.count_by_state(connection),
        assignments=job_views.count_assignments(connection),
        packages=connection.execute(select(func.count()).select_from(packages)).scalar_one(),
        jobs=connection.execute(select(func.count()).select_from(tables.jobs)).scalar_one(),
        dirty=connection.execute(waiting).scalar_one(),
        poison=set_aside.count(connection),
        expiring=_expiring(connection, now),
        content=site.configuration.content.policy(),
        distribution_behind=tuple(
            each.name for each in content_views.servers(connection, site) if each.state != "in_step"
        ),
    )


def _expiring(connection: Connection, now: datetime) -> tuple[ExpiringRole, ...]:
    known = keys_status(connection)
    return (
        *expiring(repository.INSTRUCTIONS, known.instructions, now),
        *expiring(repository.PACKAGES, known.packages, now),
    )


def kit(connection: Connection, site: Site) -> ClientConfiguration:
    """What a new client must know: addresses, and the newest roots to pin."""
    servers = site.configuration.servers()
    return ClientConfiguration(
        site=site.name,
        logon=tuple(server.location for server in servers if server.kind == "logon"),
        distribution=tuple(server.location for server in servers if server.kind == "distribution"),
        instructions_root=repository.require(connection, repository.INSTRUCTIONS, "root").body.decode(),
        packages_root=repository.require(connection, repository.PACKAGES, "root").body.decode(),
        transfer_account=site.configuration.settings.transfer_account,
        authority=read_authority(site.folder, site.configuration.tls),
    )


def keys_status(connection: Connection) -> KeysStatus:
    """Public state of both roots and all roles."""
    instructions = repository.require(connection, repository.INSTRUCTIONS, "root")
    root = repository.require(connection, repository.PACKAGES, "root")
    targets = repository.require(connection, repository.PACKAGES, "targets")
    return KeysStatus(
        instructions=_roles(connection, repository.INSTRUCTIONS, instructions.body),
        packages=(*_roles(connection, repository.PACKAGES, root.body), *_teams(connection, targets.body)),
        instructions_root=instructions.body,
        packages_root=root.body,
        packages_targets=targets.body,
        policy=repository.policy_bytes(connection),
    )


def list_audit(connection: Connection, part: Slice) -> Page[AuditRow]:
    """The audit log, newest first."""
    query = select(tables.audit).order_by(tables.audit.c.seq.desc()).limit(part.limit + 1)
    before = part.number()
    if before is not None:
        query = query.where(tables.audit.c.seq < before)
    return page(connection.execute(query).all(), part, audit.view, lambda row: str(row.seq))


def _roles(connection: Connection, name: str, body: bytes) -> tuple[RoleView, ...]:
    root = ceremony.load_root(body).signed
    return tuple(
        _role(
            connection,
            name,
            role,
            [KeyView(keyid, keys.key_name(root.keys[keyid])) for keyid in defined.keyids],
            defined.threshold,
        )
        for role, defined in root.roles.items()
    )


def _teams(connection: Connection, body: bytes) -> tuple[RoleView, ...]:
    document: Metadata[Targets] = ceremony.load_targets(body)
    delegations = document.signed.delegations
    if delegations is None:
        return ()
    return tuple(
        _role(
            connection,
            repository.PACKAGES,
            team,
            [KeyView(keyid, keys.key_name(delegations.keys[keyid])) for keyid in role.keyids],
            role.threshold,
        )
        for team, role in (delegations.roles or {}).items()
    )


def _role(connection: Connection, name: str, role: str, known: list[KeyView], threshold: int) -> RoleView:
    newest = repository.newest(connection, name, role)
    expires: datetime | None = None if newest is None else newest.expires.astimezone(UTC)
    return RoleView(role, tuple(known), threshold, 0 if newest is None else newest.version, expires)
