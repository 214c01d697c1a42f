"""`pcm group`: create, list, show, change, delete. Step 3: whom a job is for."""

import click

from pcm.cli import show
from pcm.cli.api import Api, segment
from pcm.cli.ask import confirm
from pcm.cli.settings import Settings
from pcm.cli.verbs import Noun
from pcm.protocol.admin import ClientDetail
from pcm.protocol.admin_jobs import GroupOrder, GroupView


@click.group("group", cls=Noun)
def command() -> None:
    """Groups of clients. The group `all` is always there."""


def _resolve(api: Api, references: tuple[str, ...]) -> list[str]:
    """Client ids of ids, unique prefixes or host names."""
    return [api.get(f"/clients/{segment(text)}", ClientDetail).client.client_id for text in references]


def _show(settings: Settings, group: GroupView) -> None:
    if not show.print_data(group, settings.output):
        show.print_facts((("group", group.name), ("kind", group.kind), ("clients", group.size)))


@command.command("create")
@click.argument("name")
@click.argument("clients", nargs=-1)
@click.pass_obj
def create(settings: Settings, name: str, clients: tuple[str, ...]) -> None:
    """Make group NAME of CLIENTS, given by id, unique prefix or host name."""
    with settings.connect() as api:
        order = GroupOrder(name, "names", tuple(_resolve(api, clients)))
        _show(settings, api.post("/groups", order, GroupView))


@command.command("list")
@click.pass_obj
def list_groups(settings: Settings) -> None:
    """List all groups."""
    with settings.connect() as api:
        groups = list(api.pages("/groups", GroupView))
    if not show.print_data(groups, settings.output):
        show.print_table(
            ("group", "kind", ">clients"), [(g.name, g.kind, g.size) for g in groups], none="There is no group."
        )


@command.command("show")
@click.argument("name")
@click.pass_obj
def show_group(settings: Settings, name: str) -> None:
    """Show who is in a group."""
    with settings.connect() as api:
        group = api.get(f"/groups/{segment(name)}", GroupView)
        if show.print_data(group, settings.output):
            return
        members = [api.get(f"/clients/{client}", ClientDetail).client for client in group.clients[:100]]
    show.print_facts((("group", group.name), ("kind", group.kind), ("clients", group.size)))
    if group.clients:
        rows = [(m.host_name, m.client_id[:12], m.state, m.platform) for m in members]
        show.print_table(("host", "client", "state", "platform"), rows, none="")
        if len(group.clients) > len(members):
            click.echo(f"… and {len(group.clients) - len(members)} more (all of them: --json)")


@command.command("change")
@click.argument("name")
@click.option("--add", multiple=True, metavar="CLIENT", help="Client to add. May be repeated.")
@click.option("--remove", multiple=True, metavar="CLIENT", help="Client to take out. May be repeated.")
@click.pass_obj
def change(settings: Settings, name: str, add: tuple[str, ...], remove: tuple[str, ...]) -> None:
    """Add clients to a group, or take them out; open jobs follow."""
    with settings.connect() as api:
        group = api.get(f"/groups/{segment(name)}", GroupView)
        gone = set(_resolve(api, remove))
        kept = dict.fromkeys(client for client in (*group.clients, *_resolve(api, add)) if client not in gone)
        confirm(
            settings,
            f"Group {name}: {group.size} clients now, {len(kept)} then. Open jobs on it change for those clients.",
        )
        order = GroupOrder(name, "names", tuple(kept), revision=group.revision)
        _show(settings, api.put(f"/groups/{segment(name)}", order, GroupView))


@command.command("delete")
@click.argument("name")
@click.pass_obj
def delete(settings: Settings, name: str) -> None:
    """Delete a group. Its clients stay."""
    with settings.connect() as api:
        group = api.get(f"/groups/{segment(name)}", GroupView)
        confirm(settings, f"Group {name} with {group.size} clients will be deleted; the clients themselves stay.")
        api.delete(f"/groups/{segment(name)}")
    show.print_done(settings, f"Deleted group {name}.", group=name)
