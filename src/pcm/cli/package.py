"""`pcm package`: new, lint, create, publish, withdraw, refresh, list, show. Steps 1 and 2, as the packager calls them."""

import sys
from pathlib import Path

import click

from pcm.cli import packaging, show
from pcm.cli.api import segment
from pcm.cli.settings import Settings
from pcm.cli.verbs import Noun
from pcm.protocol.admin_packages import PackageDetail, PackageView, VersionDetail

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)


@click.group("package", cls=Noun)
def command() -> None:
    """Make, check, publish and withdraw packages."""


@command.command("new")
@click.argument("directory", type=FOLDER)
@click.option("--name", help="Name of the package. Default: the folder's.")
@click.option("--version", default=None, help="Version of the software. Default: from the installer's name, or 1.0.")
@click.option("--platform", "platforms", multiple=True, help="Where it runs, such as linux-x86_64. May be repeated.")
@click.pass_obj
def new(settings: Settings, directory: Path, name: str | None, version: str | None, platforms: tuple[str, ...]) -> None:
    """Write a first package.yaml into DIRECTORY, fitting the installer that lies there."""
    from pcm.cli import template  # noqa: PLC0415 - only here

    path = template.write_template(directory, name, version, platforms)
    text = f"{path} written. Read it, change it, then: pcm package lint {directory}"
    show.print_done(settings, text, file=str(path))


@command.command("lint")
@click.argument("directory", type=FOLDER)
@click.option("--strict", is_flag=True, help="Take warnings for errors.")
@click.pass_obj
def lint(settings: Settings, directory: Path, strict: bool) -> None:
    """Check DIRECTORY: its package.yaml, its files, and what would go wrong on clients."""
    made = packaging.read_directory(settings, directory)
    packaging.show_findings(settings, made, strict=strict)


@command.command("create")
@click.argument("directory", type=FOLDER)
@click.option("--draft", type=FILE, help="Also write the unsigned manifest to this file.")
@click.option("--strict", is_flag=True, help="Take warnings for errors.")
@click.pass_obj
def create(settings: Settings, directory: Path, draft: Path | None, strict: bool) -> None:
    """Check DIRECTORY, hash its files, and show the manifest that publishing would sign."""
    made = packaging.read_directory(settings, directory)
    packaging.refuse_errors(made, strict=strict)
    packaging.show_draft(settings, made, draft)


@command.command("publish")
@click.argument("directory", type=FOLDER)
@click.option(
    "--keys", type=FOLDER, required=True, envvar="PCM_KEYS", help="Folder with the team's key (offline keyring)."
)
@click.option("--team", help="Which team publishes. Default: the one whose key is in the keyring.")
@click.option("--root", "root_file", metavar="FILE", help="Pinned root of the package repository.")
@click.option("--passphrase-file", metavar="FILE", help="First line: the keyring's passphrase. '-': standard input.")
@click.option("--strict", is_flag=True, help="Take warnings for errors.")
@click.option("--dry-run", is_flag=True, help="Check everything, publish nothing.")
@click.pass_obj
def publish(
    settings: Settings,
    directory: Path,
    keys: Path,
    team: str | None,
    root_file: str | None,
    passphrase_file: str | None,
    strict: bool,
    dry_run: bool,
) -> None:
    """Sign DIRECTORY's manifest with the team's key on this machine, and publish it.

    Content is uploaded first (only what the site lacks), then the manifest becomes visible at once. No key leaves this machine.
    """
    made = packaging.read_directory(settings, directory)
    packaging.refuse_errors(made, strict=strict)
    signing = packaging.Signing(keys, team, root_file, passphrase_file)
    packaging.publish(settings, made, signing, dry_run=dry_run)


@command.command("withdraw")
@click.argument("name")
@click.argument("version")
@click.option(
    "--keys", type=FOLDER, required=True, envvar="PCM_KEYS", help="Folder with the team's key (offline keyring)."
)
@click.option("--team", help="Which team withdraws. Default: the one whose key is in the keyring.")
@click.option("--root", "root_file", metavar="FILE", help="Pinned root of the package repository.")
@click.option("--passphrase-file", metavar="FILE", help="First line: the keyring's passphrase. '-': standard input.")
@click.pass_obj
def withdraw(
    settings: Settings,
    name: str,
    version: str,
    keys: Path,
    team: str | None,
    root_file: str | None,
    passphrase_file: str | None,
) -> None:
    """Take a published VERSION back: from then on every client refuses it."""
    packaging.withdraw(settings, name, version, packaging.Signing(keys, team, root_file, passphrase_file))


@command.command("refresh")
@click.option(
    "--keys", type=FOLDER, required=True, envvar="PCM_KEYS", help="Folder with the team's key (offline keyring)."
)
@click.option("--team", help="Whose list. Default: the team whose key is in the keyring.")
@click.option("--root", "root_file", metavar="FILE", help="Pinned root of the package repository.")
@click.option("--passphrase-file", metavar="FILE", help="First line: the keyring's passphrase. '-': standard input.")
@click.pass_obj
def refresh(
    settings: Settings, keys: Path, team: str | None, root_file: str | None, passphrase_file: str | None
) -> None:
    """Sign a team's list again before it expires (or after): packages stay as they are.

    Each publication does the same. A team that publishes seldom needs this once a year: `pcm key status` says until when.
    """
    packaging.refresh(settings, packaging.Signing(keys, team, root_file, passphrase_file))


@command.command("list")
@click.option("--limit", type=click.IntRange(1), default=None, help="At most so many.")
@click.pass_obj
def list_packages(settings: Settings, limit: int | None) -> None:
    """List published packages."""
    with settings.connect() as api:
        packages = list(api.pages("/packages", PackageView, limit))
    if show.print_data(packages, settings.output):
        return
    rows = [(p.name, p.newest or "withdrawn", p.newest_release, p.versions, p.team, p.summary) for p in packages]
    show.print_table(
        ("package", "newest", ">release", ">versions", "team", "summary"),
        rows,
        none="No package is published yet. Make one: pcm package new DIRECTORY",
    )


@command.command("show")
@click.argument("name")
@click.argument("version", required=False)
@click.option("--manifest", is_flag=True, help="Print the manifest, byte for byte as signed.")
@click.pass_obj
def show_package(settings: Settings, name: str, version: str | None, manifest: bool) -> None:
    """Show a package and its versions, or one VERSION and its programs."""
    with settings.connect() as api:
        detail = api.get(f"/packages/{segment(name)}", PackageDetail)
        chosen = version or (detail.package.newest if manifest else None)
        one = api.get(f"/packages/{segment(name)}/{segment(chosen)}", VersionDetail) if chosen else None
    if one is not None and manifest:
        sys.stdout.buffer.write(one.manifest)
    elif one is not None:
        packaging.show_version(settings, one)
    else:
        packaging.show_versions(settings, detail)
