"""Making a new site: keys and roots, the database, the first metadata on every folder, the first administrator's token.

Before step 1, behind `pcm site init`. The offline keyring goes to a folder of its own, to be taken off this
machine; the online keys stay with the site. `site.yaml` is written last: until it stands there is no site, and what
an interrupted attempt left is named and refused, never overwritten.
"""

from dataclasses import dataclass
from pathlib import Path

from pcm.content.whole_files import storing, write_whole
from pcm.distribution.folder import DistributionFolder
from pcm.logon.folder import LogonFolder
from pcm.model.errors import RequestError
from pcm.protocol.policy import TARGET as POLICY_TARGET
from pcm.protocol.policy import SitePolicy, write_policy
from pcm.site import audit, authority, configuration, delivery, groups, projection, repository, tokens
from pcm.site.authority import Clock, now_utc
from pcm.site.configuration import SiteConfiguration
from pcm.site.db.database import Database
from pcm.site.db.upgrade import upgrade
from pcm.site.distribution_servers import open_servers
from pcm.trust import keys, new_site
from pcm.trust.keyring import Keyring

ADMIN_TOKEN = "admin.token"  # noqa: S105 - the name of a file
ADMIN_TOKEN_S = 90 * 86_400


@dataclass(frozen=True)
class Beginning:
    """What an administrator decides about a new site. `policy` None: no brake, and the approvers named here."""

    configuration: SiteConfiguration
    teams: tuple[str, ...]
    approvers: tuple[str, ...] = ()
    keepers: int = 3
    threshold: int = 2
    policy: SitePolicy | None = None


@dataclass(frozen=True)
class Made:
    """What was made. `token_file`: the first administrator's token."""

    folder: Path
    token_file: Path
    offline_keys: tuple[str, ...]


def initialise(folder: Path, beginning: Beginning, offline: Keyring, *, clock: Clock = now_utc) -> Made:
    """Make a site in a folder.

    Args:
        folder: Made if it is not there; must be empty otherwise.
        beginning: Names and numbers.
        offline: Where root, targets, team and approver keys go.

    Raises:
        RequestError: `conflict`: there is a site, or something else, already; `request.*`.
        StoreError: something cannot be written.
    """
    settings = configuration.check(beginning.configuration)
    _check_free(folder)
    with storing(folder):
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    online = Keyring(folder / authority.KEYS)
    plan = new_site.Plan(
        site=settings.name,
        servers=[server.name for server in settings.logon],
        teams=beginning.teams,
        keepers=beginning.keepers,
        threshold=beginning.threshold,
        approvers=beginning.approvers,
    )
    made = new_site.make_site(plan, offline, online, clock().timestamp(), policy=beginning.policy)
    online.create(authority.TOKEN_KEY)
    database = Database(settings.database_url(folder))
    try:
        upgrade(database)
        token = _fill_database(database, settings, made, folder, clock)
    finally:
        database.close()
    home, _ = open_servers(folder, settings.distribution)
    DistributionFolder(home).publish(made.distribution)
    for server in settings.logon:
        LogonFolder(authority.logon_folder(folder, server)).write(made.logon)
    token_file = folder / ADMIN_TOKEN
    write_whole(token_file, f"{token}\n".encode(), mode=0o600)
    configuration.write(folder, settings)
    _prepare(folder, clock)
    return Made(folder, token_file, tuple(offline.names()))


def _check_free(folder: Path) -> None:
    if (folder / configuration.FILE).exists():
        raise RequestError(f"There is already a site in {folder}. Nothing was changed.", code="conflict")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RequestError(
            f"{folder} is not empty. Give an empty folder, or remove what an interrupted attempt left.", code="conflict"
        )


def _fill_database(
    database: Database, settings: SiteConfiguration, made: new_site.NewSite, folder: Path, clock: Clock
) -> str:
    now = clock()
    with database.write() as connection:
        repository.store(connection, repository.INSTRUCTIONS, "root", made.instruction_root, written=True)
        for name, body in made.distribution.items():
            if name.startswith("metadata/"):
                role = name.removesuffix(".json").rpartition("/")[2].rpartition(".")[2]
                repository.store(connection, repository.PACKAGES, role, body)
        repository.store_target(connection, POLICY_TARGET, write_policy(made.policy))
        groups.ensure_all(connection, now)
        listed = settings.servers()
        projection.store_servers(connection, listed)
        key = tokens.read_key(keys.read_private_file(folder / authority.KEYS / f"{authority.TOKEN_KEY}.pem"))
        answer = tokens.issue(connection, key, settings.name, "first administrator", "admin", now, ADMIN_TOKEN_S)
        audit.record(connection, now, audit.SITE, "site.init", settings.name, f"{len(listed)} servers")
    return answer.token


def _prepare(folder: Path, clock: Clock) -> None:
    """Open the site once: what would keep it from being served shows now."""
    site = authority.open_site(folder, clock=clock)
    try:
        projection.write_roots(site)
        projection.publish_unwritten(site)
        delivery.deliver_all(site)
    finally:
        site.close()
