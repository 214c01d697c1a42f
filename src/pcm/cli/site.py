"""`pcm site`: init, serve, status. Before step 1: a site is made and served on this machine; all else asks it over its API."""

import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click
import msgspec

from pcm.cli import show
from pcm.cli.ask import passphrase
from pcm.cli.duration import DURATION
from pcm.cli.settings import Settings, site_folder
from pcm.cli.status import show_status
from pcm.cli.verbs import Noun
from pcm.model.errors import RequestError, StoreError

if TYPE_CHECKING:
    from pcm.site.configuration import Server
    from pcm.site.initialise import Beginning, Made

FOLDER = click.Path(file_okay=False, path_type=Path)
_PINNED = (
    ("distribution/metadata/1.root.json", "packages.root.json"),
    ("logon/roots/1.root.json", "instructions.root.json"),
)


@click.group("site", cls=Noun)
def command() -> None:
    """Make a site, serve it, see how it is."""


@command.command("init")
@click.argument("directory", type=FOLDER)
@click.option("--name", help="The site's name; never changes. Default: the folder's.")
@click.option(
    "--url", default="http://127.0.0.1:8440", show_default=True, help="Its address, as clients and you reach it."
)
@click.option(
    "--listen", metavar="HOST:PORT", help="Where the process listens. Default: the URL's, if it is this machine."
)
@click.option(
    "--keys", type=FOLDER, envvar="PCM_KEYS", help="Offline keyring: take it off this machine. Default: DIRECTORY-keys."
)
@click.option(
    "--single-key", is_flag=True, help="One root key instead of three of which two must sign: for trying out."
)
@click.option("--keepers", type=click.IntRange(1, 20), default=3, show_default=True, help="How many root keys.")
@click.option(
    "--threshold", type=click.IntRange(1, 20), default=2, show_default=True, help="How many of them must sign."
)
@click.option("--team", "teams", multiple=True, help="A packaging team; may be repeated. Default: main.")
@click.option("--approver", "approvers", multiple=True, help="Somebody who may approve orders; may be repeated.")
@click.option(
    "--spread",
    type=DURATION,
    default=0,
    help="Mandatory work starts across the fleet over this time. Default: at once.",
)
@click.option("--pilot-share", type=click.FloatRange(0, 1), default=0.0, help="Share of clients that start at once.")
@click.option("--min-age", type=DURATION, default=0, help="How old a manifest must be outside the pilot share.")
@click.option(
    "--logon", "logons", multiple=True, metavar="NAME=LOCATION[,FOLDER]", help="Another logon server; FOLDER: static."
)
@click.option(
    "--distribution",
    "distributions",
    multiple=True,
    metavar="NAME=LOCATION[,FOLDER]",
    help="Another distribution server.",
)
@click.option("--database", help="SQLAlchemy URL. Default: SQLite in DIRECTORY.")
@click.option(
    "--passphrase-file", metavar="FILE", help="First line: the offline keys' passphrase. '-': standard input."
)
@click.pass_obj
def init(
    settings: Settings,
    directory: Path,
    name: str | None,
    url: str,
    listen: str | None,
    keys: Path | None,
    single_key: bool,
    keepers: int,
    threshold: int,
    teams: tuple[str, ...],
    approvers: tuple[str, ...],
    spread: int,
    pilot_share: float,
    min_age: int,
    logons: tuple[str, ...],
    distributions: tuple[str, ...],
    database: str | None,
    passphrase_file: str | None,
) -> None:
    """Make a site in DIRECTORY.

    That is: its keys, both roots of trust, its database and its first administrator's token. The offline keys (root, targets,
    teams, approvers) go to their own folder, under one passphrase: who has them decides what may run on every client. Keep a copy
    apart. The site itself never needs them.
    """
    from pcm.protocol.policy import SitePolicy  # noqa: PLC0415 - see cli.verbs
    from pcm.site.configuration import SiteConfiguration  # noqa: PLC0415
    from pcm.site.initialise import Beginning, initialise  # noqa: PLC0415
    from pcm.trust.keyring import Keyring  # noqa: PLC0415

    site = name or _name_of(directory)
    base = url.rstrip("/")
    configuration = SiteConfiguration(
        name=site,
        url=base,
        logon=(_server("site", f"{base}/logon"), *map(_named_server, logons)),
        distribution=(_server("site", f"{base}/distribution"), *map(_named_server, distributions)),
        listen=listen or _listen(base),
        database=database or "sqlite:///site.db",
    )
    beginning = Beginning(
        configuration=configuration,
        teams=teams or ("main",),
        approvers=approvers,
        keepers=1 if single_key else keepers,
        threshold=1 if single_key else threshold,
        policy=SitePolicy(site=site, spread_s=spread, pilot_share=pilot_share, min_age_s=min_age),
    )
    offline = keys or directory.with_name(f"{directory.resolve().name}-keys")
    made = initialise(directory, beginning, Keyring(offline, passphrase(passphrase_file, new=True)))
    _pin(directory, offline)
    _show_made(settings, made, beginning, offline)


def _pin(directory: Path, offline: Path) -> None:
    """Put both roots beside the offline keys: whoever has these keys also knows, for certain, which site they are for."""
    folder = offline / "pinned"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        for source, name in _PINNED:
            (folder / name).write_bytes((directory / source).read_bytes())
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror}.") from None


def _show_made(settings: Settings, made: "Made", beginning: "Beginning", offline: Path) -> None:
    configuration = beginning.configuration
    told = {
        "site": configuration.name,
        "url": configuration.url,
        "folder": str(made.folder),
        "token_file": str(made.token_file),
        "keys": str(offline),
        "offline_keys": list(made.offline_keys),
    }
    if show.print_data(told, settings.output):
        return
    show.print_facts(
        (
            ("site", configuration.name),
            ("url", configuration.url),
            ("folder", made.folder),
            ("offline keys", f"{offline}: {', '.join(made.offline_keys)}"),
            ("root", f"{beginning.threshold} of {beginning.keepers} keys must sign"),
            ("your token", made.token_file),
        )
    )
    click.echo(f"Take {offline} off this machine, and keep a copy apart: it decides what may run.")
    click.echo(f"Next: pcm site serve {made.folder}")
    click.echo(f"Then: pcm context add {configuration.name} --site {made.folder}")


def _name_of(directory: Path) -> str:
    """The folder's name as a site's."""
    return re.sub(r"[^a-z0-9.-]+", "-", directory.resolve().name.lower()).strip("-.") or socket.gethostname().lower()


def _listen(url: str) -> str:
    parts = urlsplit(url)
    if parts.hostname in {"127.0.0.1", "localhost", "::1"}:
        return f"{'[::1]' if parts.hostname == '::1' else '127.0.0.1'}:{parts.port or 8440}"
    return "127.0.0.1:8440"


def _server(name: str, location: str, folder: str | None = None) -> "Server":
    from pcm.site.configuration import Server  # noqa: PLC0415 - see cli.verbs

    return Server(name, location, folder)


def _named_server(text: str) -> "Server":
    name, equals, rest = text.partition("=")
    location, _, folder = rest.partition(",")
    if not equals or not location:
        raise RequestError(f"{text!r} is no server: write NAME=LOCATION or NAME=LOCATION,FOLDER.", code="usage")
    return _server(name, location, folder or None)


@command.command("serve")
@click.argument("directory", type=FOLDER)
@click.option("--listen", metavar="HOST:PORT", help="Where to listen this time. Default: as site.yaml says.")
def serve(directory: Path, listen: str | None) -> None:
    """Serve the site in DIRECTORY.

    One process: admin API, compiler, logon server, distribution server and intake. SIGTERM ends it in order.
    """
    import logging  # noqa: PLC0415 - see cli.verbs

    from pcm.site import configuration  # noqa: PLC0415
    from pcm.site.serve import serve as serve_site  # noqa: PLC0415

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = configuration.read(site_folder(directory))
    if listen is not None:
        settings = msgspec.structs.replace(settings, listen=listen)
    host, port = settings.address()

    def ready() -> None:
        show.say(f"Site {settings.name} listens at {host}:{port}; clients know it as {settings.url}. Stop with Ctrl-C.")

    serve_site(directory, listen=(host, port), on_ready=ready)


@command.command("status")
@click.pass_obj
def status(settings: Settings) -> None:
    """Show how the site is; same as `pcm status`."""
    show_status(settings)
