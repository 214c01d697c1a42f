"""`pcm context`: list, add, use, remove: the sites that this administrator works with. Serves every verb that asks a site."""

from dataclasses import asdict
from pathlib import Path

import click

from pcm.cli import contexts, show
from pcm.cli.ask import confirm
from pcm.cli.settings import Settings, read_token, site_folder, site_url
from pcm.cli.verbs import Noun
from pcm.model.errors import RequestError

FILE = click.Path(dir_okay=False, path_type=Path)


@click.group("context", cls=Noun)
def command() -> None:
    """The sites that you work with, kept in ~/.config/pcm/contexts.yaml."""


@command.command("list")
@click.pass_obj
def list_contexts(settings: Settings) -> None:
    """List contexts; the current one is marked."""
    known = contexts.load()
    if settings.output != "table":
        listed = [{"name": name, "current": name == known.current, **asdict(c)} for name, c in known.known.items()]
        show.print_data(listed, settings.output)
        return
    rows = [
        ("*" if name == known.current else "", show.plain(name), c.site, c.token_file)
        for name, c in known.known.items()
    ]
    show.print_table(
        ("", "context", "~site", "token file"), rows, none="There is none. Add one: pcm context add NAME --site URL"
    )


@command.command("add")
@click.argument("name")
@click.option(
    "--pin", type=FILE, metavar="FILE", help="Pinned root of the package repository, from whoever keeps the keys."
)
@click.pass_obj
def add(settings: Settings, name: str, pin: Path | None) -> None:
    """Remember a site as NAME, and make it the current one.

    Give --site URL and --token-file FILE, or --site FOLDER for a site on this machine.
    """
    contexts.check_context_name(name)
    if settings.site is None:
        raise RequestError("Which site? Give --site URL and --token-file FILE, or --site FOLDER.", code="usage")
    site, token_file = settings.site, settings.token_file
    if "://" not in site:
        folder = site_folder(Path(site)).absolute()
        site, token_file = site_url(folder), token_file or str(folder / "admin.token")
    from pcm.cli.api import checked_url  # noqa: PLC0415 - see cli.verbs

    site = checked_url(site, insecure_http=settings.insecure_http)
    if token_file is None:
        raise RequestError("Give --token-file FILE too: contexts keep its path, never the token itself.", code="usage")
    read_token(Path(token_file))
    if pin is not None and not pin.is_file():
        raise RequestError(f"There is no file {pin}.", code="not_found")
    known = contexts.load()
    root = str(pin.absolute()) if pin is not None else None
    known.known[name] = contexts.SiteContext(site, str(Path(token_file).absolute()), root, _authority(settings))
    known.current = name
    path = contexts.save(known)
    show.print_done(
        settings, f"{path}: context {name} is {site}, and current.", context=name, site=site, file=str(path)
    )


def _authority(settings: Settings) -> str | None:
    """The authority's file that was given, or that a site on this machine names."""
    found = settings.find_site().ca_file
    if found is None:
        return None
    from pcm.cli.api import trusted  # noqa: PLC0415 - see cli.verbs

    trusted(found)
    return str(Path(found).absolute())


@command.command("use")
@click.argument("name")
@click.pass_obj
def use(settings: Settings, name: str) -> None:
    """Make NAME the current context."""
    known = contexts.load()
    known.find(name)
    known.current = name
    contexts.save(known)
    show.print_done(settings, f"Context {name} is current.", context=name)


@command.command("remove")
@click.argument("name")
@click.pass_obj
def remove(settings: Settings, name: str) -> None:
    """Forget a context. The site and the token file stay."""
    known = contexts.load()
    known.find(name)
    confirm(settings, f"Context {name} will be forgotten; the site and the token file stay.")
    del known.known[name]
    if known.current == name:
        known.current = None
    contexts.save(known)
    show.print_done(settings, f"Forgot {name}.", context=name)
