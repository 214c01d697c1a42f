"""`pcm distribution`: list, show, retry, mirror. Step 2, as whoever looks after distribution servers calls it."""

import os
from pathlib import Path

import click

from pcm.cli import show
from pcm.cli.api import segment
from pcm.cli.ask import confirm
from pcm.cli.progress import progress
from pcm.cli.settings import Settings
from pcm.cli.verbs import Noun
from pcm.distribution.bucket import BucketShelf
from pcm.distribution.shelf import FolderShelf
from pcm.distribution.web import WebSource
from pcm.model.errors import RequestError
from pcm.protocol.admin_content import DistributionDetail, DistributionView, Retried


@click.group("distribution", cls=Noun)
def command() -> None:
    """Distribution servers: what stands where, what is tried again when, and copies of them."""


@command.command("list")
@click.pass_obj
def list_servers(settings: Settings) -> None:
    """List all distribution servers and how they stand."""
    with settings.connect() as api:
        servers = list(api.pages("/distribution", DistributionView))
    if show.print_data(servers, settings.output):
        return
    rows = [
        (
            each.name,
            each.state.replace("_", " "),
            f"{each.complete} of {each.complete + each.waiting}",
            each.attempts or "",
            show.ago(each.next_try),
            each.written_to or each.location,
            each.error,
        )
        for each in servers
    ]
    columns = ("server", "state", "versions", ">failed", "next try", "~where", "last error")
    show.print_table(columns, rows, none="The site names no distribution server.")


@command.command("show")
@click.argument("name")
@click.pass_obj
def show_server(settings: Settings, name: str) -> None:
    """Show one server, and each version that stands there or waits."""
    with settings.connect() as api:
        detail = api.get(f"/distribution/{segment(name)}", DistributionDetail)
    if show.print_data(detail, settings.output):
        return
    server = detail.server
    show.print_facts(
        (
            ("server", server.name),
            ("location", show.plain(server.location)),
            ("written to", show.plain(server.written_to or "the site serves it itself")),
            ("home", "content comes in here" if server.home else ""),
            ("state", server.state.replace("_", " ")),
            ("away since", server.away_since),
            ("next try", server.next_try),
            ("failed", f"{server.attempts} attempts" if server.attempts else ""),
            ("last error", show.plain(server.error)),
            ("in step", server.succeeded),
            ("repository", f"version {server.timestamp} of {server.newest}"),
        )
    )
    rows = [
        (
            f"{each.package} {each.version}",
            each.state,
            show.ago(each.complete),
            each.files,
            show.size(each.bytes),
            each.attempts or "",
            show.ago(each.next_try),
            each.error,
        )
        for each in detail.deliveries
    ]
    columns = ("version", "state", "complete since", ">files", ">brought", ">failed", "next try", "last error")
    show.print_table(columns, rows, none="No version is published.")


@command.command("retry")
@click.argument("name")
@click.pass_obj
def retry(settings: Settings, name: str) -> None:
    """Try at once what waits for a server's next attempt."""
    with settings.connect() as api:
        answer = api.post(f"/distribution/{segment(name)}/retry", None, Retried)
    show.print_done(settings, f"{name} is tried again now: {show.count(answer.rows, 'version')}.", rows=answer.rows)


@command.command("mirror")
@click.argument("source")
@click.argument("target")
@click.option("--package", "packages", multiple=True, metavar="NAME", help="Only its content. May be repeated.")
@click.option("--check", is_flag=True, help="Also read what the copy has, and bring anew what is damaged.")
@click.option("--prune", is_flag=True, help="Remove from the copy what SOURCE no longer names.")
@click.option("--endpoint", metavar="URL", help="S3 server of s3://BUCKET/PREFIX. Default: as the environment says.")
@click.pass_obj
def mirror_server(
    settings: Settings,
    source: str,
    target: str,
    packages: tuple[str, ...],
    check: bool,
    prune: bool,
    endpoint: str | None,
) -> None:
    """Bring TARGET into step with SOURCE: each a folder, a USB stick, s3://BUCKET/PREFIX; SOURCE also https://...

    Only what lacks is copied, each file is checked, and what was interrupted goes on where it was. Nothing is removed
    without --prune.
    """
    from pcm.distribution.mirror import mirror  # noqa: PLC0415 - only here

    if prune:
        confirm(settings, f"What {source} does not name will be removed from {target}.")
    into = _shelf(target, endpoint)
    if isinstance(into, WebSource):
        raise RequestError("A web server cannot be written to over http: give its folder or bucket.", code="usage")
    with progress("Copying", settings.output) as advance:
        done = mirror(
            _shelf(source, endpoint, settings.ca_file),
            into,
            packages=packages,
            check=check,
            prune=prune,
            on_progress=lambda at: advance(at.bytes_done, at.bytes_total, at.name),
        )
    if show.print_data(done._asdict(), settings.output):
        return
    click.echo(
        f"{target} is in step with {source}: {show.count(done.packages, 'version')}, "
        f"{show.count(done.copied, 'file')} copied ({show.size(done.copied_bytes)}), {done.kept} were there"
        + (f", {done.removed} removed." if prune else ".")
    )


def _shelf(place: str, endpoint: str | None, ca_file: str | None = None) -> FolderShelf | BucketShelf | WebSource:
    if place.startswith(("http://", "https://")):
        return WebSource(place, ca_file=ca_file)
    if place.startswith("s3://"):
        bucket, _, prefix = place.removeprefix("s3://").partition("/")
        endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        return BucketShelf(bucket, prefix, endpoint=endpoint)
    return FolderShelf(Path(place.removeprefix("file://")))
