"""`pcm content`: gc, verify, stats, task. Looking after what lies on distribution servers; serves step 2 from outside."""

import time

import click

from pcm.cli import show
from pcm.cli.api import Api
from pcm.cli.ask import confirm
from pcm.cli.progress import progress
from pcm.cli.settings import Settings
from pcm.cli.verbs import Noun
from pcm.model.errors import RequestError, StoreError
from pcm.protocol.admin_content import DEFAULT_GRACE_S, ClearOrder, ContentStats, ContentTask, VerifyOrder

_LOOK_S = 0.25
_MOST_TOLD = 20


@click.group("content", cls=Noun)
def command() -> None:
    """What lies on distribution servers: clean it up, check it, count it."""


@command.command("gc")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--grace", "grace_h", type=click.FloatRange(0, 8760), default=DEFAULT_GRACE_S / 3600, show_default=True,
              help="Younger files stay, in hours.")  # fmt: skip
@click.pass_obj
def clear(settings: Settings, dry_run: bool, grace_h: float) -> None:
    """Remove what nothing names any more: no version in force, no order, no client within its grace time."""
    if not dry_run:
        confirm(settings, "Content that nothing names any more will be removed from all distribution servers.")
    with settings.connect() as api:
        api.post("/content/gc", ClearOrder(dry_run, int(grace_h * 3600)), ContentTask)
        task = _follow(api, settings, "Looking")
    if show.print_data(task, settings.output):
        return
    would = "would go" if dry_run else "removed"
    rows = [
        (
            each.server,
            each.removed,
            show.size(each.removed_bytes),
            each.kept,
            show.size(each.kept_bytes),
            each.young,
            each.foreign,
            each.error,
        )
        for each in task.cleared
    ]
    columns = ("place", f">{would}", ">size", ">kept", ">size", ">young", ">not ours", "error")
    show.print_table(columns, rows, none="There is nothing.")


@command.command("verify")
@click.option("--repair", is_flag=True, help="Bring back what is absent or damaged, as far as another server has it.")
@click.pass_obj
def verify(settings: Settings, repair: bool) -> None:
    """Read and hash all content on all distribution servers."""
    with settings.connect() as api:
        api.post("/content/verify", VerifyOrder(repair), ContentTask)
        task = _follow(api, settings, "Checking")
    bad = [damage for each in task.verified for damage in each.damaged if not damage.mended]
    if not show.print_data(task, settings.output):
        rows = [(each.server, each.objects, len(each.damaged), each.error) for each in task.verified]
        show.print_table(("place", ">objects", ">absent or damaged", "error"), rows, none="There is nothing.")
        _print_damage(task)
        if bad and not repair:
            click.echo("Bring it back: pcm content verify --repair")
        elif bad:
            click.echo("What no server has can only be published again: pcm package publish DIRECTORY")
    unreached = [each.server for each in task.verified if each.error]
    if bad:
        raise RequestError(f"{show.count(len(bad), 'object')} absent or damaged.", code="request.damaged")
    if unreached:
        raise RequestError(f"Not everything could be checked: {', '.join(unreached)}.", code="request.unchecked")


@command.command("stats")
@click.pass_obj
def stats(settings: Settings) -> None:
    """Count what lies there, and what packing again and patches save."""
    with settings.connect() as api:
        told = api.get("/content", ContentStats)
    if show.print_data(told, settings.output):
        return
    show.print_facts(
        (
            ("versions", f"{told.versions} with {show.count(told.files, 'file')}, {show.size(told.named)}"),
            ("different", f"{show.size(told.plain)}: equal files are kept once"),
            ("objects", f"{told.objects}, {show.size(told.packed)} packed"),
            ("bundles", f"{told.bundles}, {show.size(told.bundle_bytes)}"),
            ("saved", f"{show.size(told.saved)} by packing again"),
            ("improving", "in the background" if told.improving else "paused (site.yaml, content.improve.enabled)"),
        )
    )
    rows = [
        (
            f"{each.package} {each.version}",
            each.state.replace("_", " "),
            show.size(each.objects_before),
            show.size(each.objects_after) if each.objects_after else "",
            each.bundles or "",
            show.size(each.patches) if each.patches else "",
            each.error,
        )
        for each in told.improvements
    ]
    columns = ("version", "state", ">objects", ">now", ">bundles", ">patches", "last error")
    show.print_table(columns, rows, none="Nothing has been improved yet.")


@command.command("task")
@click.pass_obj
def task(settings: Settings) -> None:
    """Show the clean-up or check that runs, or ran last."""
    with settings.connect() as api:
        told = api.get("/content/task", ContentTask)
    if show.print_data(told, settings.output):
        return
    state = "running" if told.running else "ended" if told.ended else "none so far"
    show.print_facts(
        (
            ("task", told.kind),
            ("state", state),
            ("started", told.started),
            ("ended", told.ended),
            ("at", f"{told.place}, {told.done} files" if told.running else ""),
            ("error", show.plain(told.error)),
        )
    )


def _print_damage(task: ContentTask) -> None:
    """Tell what was absent or damaged: two lines for each, since names are long, and people copy them."""
    for each in task.verified:
        show.print_named(
            (f"{each.server}  {damage.name}", "right again" if damage.mended else damage.what)
            for damage in each.damaged[:_MOST_TOLD]
        )
        if len(each.damaged) > _MOST_TOLD:
            click.echo(f" {len(each.damaged) - _MOST_TOLD} more at {show.one_line(each.server)}: --json tells all")


def _follow(api: Api, settings: Settings, title: str) -> ContentTask:
    with progress(title, settings.output) as advance:
        while (told := api.get("/content/task", ContentTask)).running:
            advance(told.done, max(told.total, told.done + 1), told.place)
            time.sleep(_LOOK_S)
    if told.error:
        raise StoreError(told.error, code=told.error_code)
    return told
