"""`site.yaml`: how one site is set up: its name, its address, its database, its servers, its habits.

Serves `pcm site init` (written) and `pcm site serve` (read), before anything else. The list of servers in it is
what clients get: a change takes effect at the next start, on every client (KB Q199994). It holds no secrets but, at
most, a database password.
"""

import ssl
from pathlib import Path
from typing import Annotated

import msgspec

from pcm.content.whole_files import write_whole
from pcm.model.content_policy import ContentPolicy
from pcm.model.errors import RequestError
from pcm.model.names import check_name
from pcm.model.schedule import Window
from pcm.protocol.admin import ServerView
from pcm.protocol.enrolment import MAX_AUTHORITY
from pcm.transport.locations import parse_location

FILE = "site.yaml"
MAX_BYTES = 256 * 2**10
_Days = Annotated[float, msgspec.Meta(gt=0, le=400)]
_Seconds = Annotated[int, msgspec.Meta(ge=1, le=7 * 86_400)]


class Bucket(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A bucket that the site writes into, over S3. `endpoint` None: the cloud's own; `prefix`: below which everything lies.

    `credentials`: a file in the site's folder with two lines, key id and secret; None: from the environment, as its library does.
    """

    name: Annotated[str, msgspec.Meta(min_length=3, max_length=63, pattern=r"^[a-z0-9][a-z0-9.-]*[a-z0-9]$(?!\n)")]
    endpoint: Annotated[str, msgspec.Meta(max_length=400)] | None = None
    region: Annotated[str, msgspec.Meta(max_length=64)] = "us-east-1"
    prefix: Annotated[str, msgspec.Meta(max_length=200)] = ""
    credentials: Annotated[str, msgspec.Meta(max_length=400)] | None = None

    @property
    def url(self) -> str:
        """As people write it: `s3://bucket/prefix`."""
        return f"s3://{self.name}/{self.prefix}".rstrip("/")


class Server(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A logon or distribution server: the site itself, or a place where it writes the files (`folder`, or `bucket`).

    `mounted`: the folder lies on a file system that is mounted; while it is not, the server is away, and nothing is written.
    """

    name: str
    location: str
    folder: str | None = None
    bucket: Bucket | None = None
    mounted: bool = False

    @property
    def own(self) -> bool:
        """Whether the site serves it itself."""
        return self.folder is None and self.bucket is None

    @property
    def written_to(self) -> str | None:
        """Where the site writes it, for people; None: its own folder."""
        return self.bucket.url if self.bucket is not None else self.folder


class Improve(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the site makes smaller in the background. `enabled` False pauses it.

    `releases`: patches against so many releases before; `recompress`: objects at `level`, those of versions with at most
    `recompress_at_most` bytes; `hours_at_most`: for one version, then it is given up.
    """

    enabled: bool = True
    releases: Annotated[int, msgspec.Meta(ge=0, le=16)] = 3
    recompress: bool = True
    level: Annotated[int, msgspec.Meta(ge=4, le=19)] = 19
    recompress_at_most: Annotated[int, msgspec.Meta(ge=0, le=2**50)] = 16 * 2**30
    hours_at_most: Annotated[float, msgspec.Meta(gt=0, le=168)] = 12.0


class Content(ContentPolicy, frozen=True, omit_defaults=True, kw_only=True, forbid_unknown_fields=True):
    """What clients may use for content (`ContentPolicy`), and how the site looks after it.

    `keep_withdrawn_days`: how long the content of a version stays after it was withdrawn.
    """

    improve: Improve = Improve()
    keep_withdrawn_days: Annotated[float, msgspec.Meta(ge=0, le=3660)] = 30.0

    def policy(self) -> ContentPolicy:
        """What clients are told."""
        return ContentPolicy(**{name: getattr(self, name) for name in ContentPolicy.__struct_fields__})


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The site's habits, each with its default."""

    poll_after_s: Annotated[int, msgspec.Meta(ge=5, le=7 * 86_400)] = 1800
    instruction_days: _Days = 30.0
    lease_days: _Days = 3.0
    report_retention_days: _Days = 30.0
    tick_s: Annotated[float, msgspec.Meta(ge=0.05, le=3600)] = 30.0
    min_client_version: str = "0"
    max_pending: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 10_000
    windows: tuple[Window, ...] = ()
    transfer_account: str = "_pcm"


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """PEM files, relative to the site's folder. `authority`: put into the enrolment kit, for clients that do not know it."""

    certificate: str
    key: str
    authority: str | None = None


class SiteConfiguration(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One site. `url`: its public address; `listen`: host and port; `database`: SQLAlchemy URL, relative for SQLite."""

    name: str
    url: str
    logon: Annotated[tuple[Server, ...], msgspec.Meta(min_length=1, max_length=32)]
    distribution: Annotated[tuple[Server, ...], msgspec.Meta(min_length=1, max_length=32)]
    listen: str = "127.0.0.1:8440"
    database: str = "sqlite:///site.db"
    tls: Tls | None = None
    settings: Settings = Settings()
    content: Content = Content()

    def servers(self) -> tuple[ServerView, ...]:
        """All servers in order of preference, as clients reach them."""
        logon = (
            ServerView(each.name, "logon", parse_location(each.location).url, each.written_to) for each in self.logon
        )
        distribution = (
            ServerView(each.name, "distribution", parse_location(each.location).url, each.written_to)
            for each in self.distribution
        )
        return (*logon, *distribution)

    def address(self) -> tuple[str, int]:
        """Host and port to listen at.

        Raises:
            RequestError: `request.configuration`.
        """
        host, _, port = self.listen.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise RequestError(f"listen: {self.listen!r} is not host:port.", code="request.configuration")
        return host.strip("[]"), int(port)

    def database_url(self, folder: Path) -> str:
        """The database's URL, with a relative SQLite file below the site's folder."""
        prefix = "sqlite:///"
        if self.database.startswith(prefix) and not self.database.startswith(prefix + "/"):
            return f"{prefix}{folder.absolute()}/{self.database.removeprefix(prefix)}"
        return self.database


def check(configuration: SiteConfiguration) -> SiteConfiguration:
    """Return `configuration` if everything in it fits together.

    Raises:
        RequestError: `request.name`, `request.location`, `request.configuration`.
    """
    check_name("site", configuration.name)
    if parse_location(configuration.url).kind not in ("http", "https"):
        raise RequestError("url: the site's own address begins with http:// or https://.", code="request.configuration")
    configuration.address()
    if any(server.bucket is not None for server in configuration.logon):
        raise RequestError("logon: only distribution servers can be buckets.", code="request.configuration")
    for listed in (configuration.logon, configuration.distribution):
        names = [check_name("server", server.name) for server in listed]
        for server in listed:
            if parse_location(server.location).kind == "smb" and server.own:
                raise RequestError(
                    f"{server.location} is a share: name the folder into which the site writes what lies there.",
                    code="request.configuration",
                )
            if server.folder is not None and server.bucket is not None:
                raise RequestError(
                    f"{server.name}: a server is written into a folder or into a bucket, not both.",
                    code="request.configuration",
                )
        if len(set(names)) != len(names):
            raise RequestError("Two servers of one kind have the same name.", code="request.configuration")
        if sum(server.own for server in listed) > 1:
            raise RequestError(
                "Only one server of each kind can be the site itself; give the others a folder (or a bucket).",
                code="request.configuration",
            )
    return configuration


def read(folder: Path) -> SiteConfiguration:
    """Read `site.yaml` of a site's folder.

    Raises:
        RequestError: `not_found`; `request.configuration`, naming the key.
    """
    path = folder / FILE
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES)
    except FileNotFoundError:
        raise RequestError(
            f"There is no site in {folder} ({FILE} is missing). `pcm site init` makes one.", code="not_found"
        ) from None
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}.", code="request.configuration") from error
    try:
        return check(msgspec.yaml.decode(data, type=SiteConfiguration))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"{path}: {error}.", code="request.configuration") from None


def check_tls(folder: Path, tls: Tls) -> tuple[Path, Path]:
    """Files of the certificate and its key, if a server can use them.

    Raises:
        RequestError: `request.configuration`: one is missing, cannot be read, is damaged, or they do not belong together.
    """
    certificate, key = folder / tls.certificate, folder / tls.key
    for name, path in (("certificate", certificate), ("key", key)):
        _read_file(f"tls.{name}", path)
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (ssl.SSLError, ValueError) as error:
        raise RequestError(
            f"tls: {certificate} and {key} are no certificate with its key, in PEM and without a passphrase ({error}).",
            code="request.configuration",
        ) from None
    return certificate, key


def read_authority(folder: Path, tls: Tls | None) -> str | None:
    """PEM text of the authority that clients shall trust for https; None: those that their systems know.

    Raises:
        RequestError: `request.configuration`: missing, or no certificate.
    """
    if tls is None or tls.authority is None:
        return None
    path = folder / tls.authority
    try:
        text = _read_file("tls.authority", path).decode("ascii")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, UnicodeDecodeError, ValueError):
        raise RequestError(
            f"tls.authority: {path} holds no certificate in PEM.", code="request.configuration"
        ) from None
    return text


def _read_file(key: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_AUTHORITY)
    except OSError as error:
        raise RequestError(f"{key}: {path} cannot be read: {error.strerror}.", code="request.configuration") from None


def write(folder: Path, configuration: SiteConfiguration) -> None:
    """Write `site.yaml`, readable by its owner only (it may hold a database password)."""
    write_whole(folder / FILE, msgspec.yaml.encode(check(configuration)), mode=0o600)
