"""One opened site: its database, its online keys, its folders, its clock; what every part of the site works with.

Serves steps 2–5 and 12: made at the start of `pcm site serve`, handed to the API, the compiler and the intake. Keys
are chosen by what the newest roots say, not by file names, so a rotated key is taken up as soon as its root is
(`reload_signers`). It holds no key that could make anything run: those stay with packagers and keepers.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from joserfc.jwk import OKPKey
from securesystemslib.signer import Signer

from pcm.content.uploads import Uploads
from pcm.distribution.folder import DistributionFolder
from pcm.logon.folder import LogonFolder
from pcm.logon.leases import Leases
from pcm.model.errors import RequestError, StoreError
from pcm.site import configuration, repository, tokens
from pcm.site.configuration import Server, SiteConfiguration
from pcm.site.db.database import Database
from pcm.site.db.upgrade import upgrade
from pcm.site.distribution_servers import DistributionServer, open_servers
from pcm.site.throttle import Acquaintances, Throttle
from pcm.trust import ceremony, keys
from pcm.trust.keyring import Keyring

KEYS = "keys"
LOGON = "logon"
MOST_WRONG = 20, 60.0  # API tokens of one address, in so many seconds
TOKEN_KEY = "token"  # noqa: S105 - the name of a key

Clock = Callable[[], datetime]


def now_utc() -> datetime:
    """The system's clock."""
    return datetime.now(UTC)


@dataclass
class LogonPlace:
    """One logon server that the site writes to. `own`: the site itself serves it over HTTP."""

    name: str
    own: bool
    folder: LogonFolder
    leases: Leases


@dataclass
class Site:
    """An opened site. `wake` is set when there is something to compile; `started` is when it was opened.

    `home`: the folder that content comes into; `servers`: all distribution servers, filled from it. `content_turn`: held
    by whoever is about to name objects of home, and by whoever removes some.
    `wrong_tokens` counts those of the API by where they come from, `right_tokens` knows the hashes of those that were right
    lately.
    """

    folder: Path
    configuration: SiteConfiguration
    database: Database
    keyring: Keyring
    token_key: OKPKey
    clock: Clock
    home: DistributionFolder
    servers: tuple[DistributionServer, ...]
    started: datetime
    policy: Signer
    online: Signer
    logon: tuple[LogonPlace, ...]
    wake: threading.Event
    wrong_tokens: Throttle
    right_tokens: Acquaintances
    content_turn: threading.Lock = field(default_factory=threading.Lock)

    @property
    def uploads(self) -> Uploads:
        """What interrupted uploads have left."""
        return Uploads(self.home.objects)

    @property
    def name(self) -> str:
        """The site's name."""
        return self.configuration.name

    @property
    def own_logon(self) -> LogonPlace | None:
        """The logon server that this site serves itself, if it does."""
        return next((place for place in self.logon if place.own), None)

    @property
    def own_distribution(self) -> DistributionFolder | None:
        """The distribution server that this site serves itself, if it does."""
        return self.home if any(server.own for server in self.servers) else None

    def reload_signers(self) -> None:
        """Take up the keys that the newest roots name. The logon places stay the same: servers and threads hold them.

        Raises:
            RequestError: `request.key`: the keyring has none of them.
        """
        self.policy, self.online, leases = _open_signers(self.configuration, self.database, self.keyring)
        for place, signer in zip(self.logon, leases, strict=True):
            place.leases.change_key(signer)

    def close(self) -> None:
        """Give the database back."""
        self.database.close()


def open_site(folder: Path, *, clock: Clock = now_utc) -> Site:
    """Open the site in a folder, and bring its database to this program's schema.

    Raises:
        RequestError: `not_found`, `request.configuration`, `request.key`.
        StoreError: the database cannot be used.
    """
    settings = configuration.read(folder)
    database = Database(settings.database_url(folder))
    upgrade(database)
    keyring = Keyring(folder / KEYS)
    policy, online, leases = _open_signers(settings, database, keyring)
    home, servers = open_servers(folder, settings.distribution)
    return Site(
        folder=folder,
        configuration=settings,
        database=database,
        keyring=keyring,
        token_key=tokens.read_key(keys.read_private_file(folder / KEYS / f"{TOKEN_KEY}.pem")),
        clock=clock,
        home=DistributionFolder(home),
        servers=servers,
        started=clock(),
        policy=policy,
        online=online,
        logon=tuple(
            _open_place(folder, server, signer, clock, settings.settings.lease_days)
            for server, signer in zip(settings.logon, leases, strict=True)
        ),
        wake=threading.Event(),
        wrong_tokens=Throttle(*MOST_WRONG),
        right_tokens=Acquaintances(),
    )


def logon_folder(site: Path, server: Server) -> Path:
    """Where a logon server's files lie: its folder, or the site's own."""
    return site / LOGON if server.folder is None else site / server.folder


def _open_signers(
    settings: SiteConfiguration, database: Database, keyring: Keyring
) -> tuple[Signer, Signer, tuple[Signer, ...]]:
    """The policy key, the online key, and each logon server's lease key."""
    with database.read() as connection:
        instructions = ceremony.load_root(repository.require(connection, repository.INSTRUCTIONS, "root").body).signed
        packages = ceremony.load_root(repository.require(connection, repository.PACKAGES, "root").body).signed
    policy = _signer(keyring, instructions.roles["targets"].keyids, "policy")
    online = _signer(keyring, packages.roles["timestamp"].keyids, "online")
    named = instructions.roles["timestamp"].keyids
    return policy, online, tuple(_signer(keyring, named, f"lease-{server.name}") for server in settings.logon)


def _open_place(folder: Path, server: Server, lease: Signer, clock: Clock, lease_days: float) -> LogonPlace:
    # not synced file by file: the database is, and after a power cut all is written again (`projection`)
    place = LogonFolder(logon_folder(folder, server), durable=False)
    leases = Leases(place, lease, lambda: int(clock().timestamp() * 1000), lease_days)
    return LogonPlace(server.name, server.folder is None, place, leases)


def _signer(keyring: Keyring, keyids: list[str], name: str) -> Signer:
    """The newest key called `name`, or `name.2`, `name.3` … after rotations, that the root names."""
    rotated = [each for each in keyring.names() if each == name or _is_rotation(each, name)]
    for each in sorted(rotated, key=lambda each: (len(each), each), reverse=True):
        if keyring.public(each).keyid in keyids:
            return keyring.signer(each)
    raise RequestError(
        f"The site has no key {name} that the newest root names. Bring the key into {keyring.folder}, or sign a root with "
        "the one that is there.",
        code="request.key",
    )


def _is_rotation(each: str, name: str) -> bool:
    number = each.removeprefix(f"{name}.")
    return number != each and number.isdecimal()


def check_folders(site: Site) -> None:
    """Raise unless the folders are there that the site cannot do without.

    Raises:
        StoreError: `store.not_writable`.
    """
    for path in (*(place.folder.root for place in site.logon), site.home.root):
        if not path.is_dir():
            raise StoreError(f"The folder {path} is not there.", code="store.not_writable")
