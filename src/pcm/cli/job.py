"""`pcm job`: create, plan, list, show, watch, cancel, approve. Step 3: what an administrator orders, and what came of it."""

import contextlib
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from pcm.cli import jobs, show
from pcm.cli.api import segment
from pcm.cli.ask import confirm, passphrase
from pcm.cli.duration import DURATION, MOMENT
from pcm.cli.settings import Settings
from pcm.cli.verbs import Noun
from pcm.model.errors import RequestError
from pcm.model.instruction import Deferral, Notify
from pcm.model.job import JobOrder
from pcm.protocol.admin_jobs import JobDetail, JobPlan, JobRequest, JobView

_OPTIONS = {
    "allowed_users": "--user",
    "deferral.max_s": "--defer-for",
    "deferral.times": "--defer-times",
    "expires_after": "--expires-after",
    "mandatory_after": "--mandatory-after",
    "notify.countdown_s": "--countdown",
    "notify.show": "--notify",
    "offer_after": "--offer-after",
    "recurrence": "--recurs",
    "restart_policy": "--restart",
}
_SETTING = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in _OPTIONS))
FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group("job", cls=Noun)
def command() -> None:
    """Order programs onto groups, and follow them."""


_ABOUT_PEOPLE = (
    click.option(
        "--notify/--no-notify", default=True, show_default=True, help="Whether users are told that it starts."
    ),
    click.option(
        "--countdown", type=DURATION, default=0, help="How long before its start whoever is logged on is told."
    ),
    click.option(
        "--busy",
        "busy_policy",
        type=click.Choice(["delay", "ignore"]),
        default="delay",
        show_default=True,
        help="While somebody is busy: wait (as long as --defer-for allows), or start all the same.",
    ),
    click.option(
        "--blocking",
        "blocking_policy",
        type=click.Choice(["wait", "close"]),
        default="wait",
        show_default=True,
        help="Programs in its way: wait until their users close them, or ask and then close them.",
    ),
    click.option(
        "--restart",
        "restart_policy",
        type=click.Choice(["never", "ask", "force"]),
        default="ask",
        show_default=True,
        help="If it needs one: leave it to others, let users choose when within limits, or do it after a warning.",
    ),
)
"""What is done about whoever sits at the computer."""


def _ordering(function: Any) -> Any:
    """The options of `create` and `plan`."""
    for option in reversed(
        [
            click.argument("package"),
            click.option("-g", "--group", required=True, help="Whom it is for."),
            click.option("--version", help="Which version. Default: the newest release."),
            click.option("--program", default="install", show_default=True, help="Which of its programs."),
            click.option("--optional", is_flag=True, help="Offered to users, never forced."),
            click.option("--offer-after", type=MOMENT, help="Not before. Default: now."),
            click.option("--mandatory-after", type=MOMENT, help="The deadline. Default: as soon as offered."),
            click.option("--expires-after", type=MOMENT, help="Not any more after this."),
            click.option(
                "--clock", type=click.Choice(["utc", "client"]), default="utc", help="Whose clock the times mean."
            ),
            click.option(
                "-p", "--param", "parameters", multiple=True, metavar="NAME=VALUE", help="A parameter's value."
            ),
            click.option("--after", multiple=True, metavar="JOB", help="Only once that job succeeded on the client."),
            click.option(
                "--priority", type=click.IntRange(0, 100), default=50, show_default=True, help="Higher goes first."
            ),
            click.option(
                "--recurs",
                "recurrence",
                metavar="RRULE",
                help="Again and again, counted from --offer-after: 'FREQ=WEEKLY;BYDAY=SA' (RFC 5545). "
                "Mandatory jobs only: an optional one is refused.",
            ),
            click.option("--ignore-windows", is_flag=True, help="Run outside maintenance windows too."),
            click.option("--defer-times", type=click.IntRange(0, 100), default=0, help="How often users may postpone."),
            click.option("--defer-for", type=DURATION, default=0, help="How long past the deadline they may."),
            *_ABOUT_PEOPLE,
            click.option(
                "--user", "users", multiple=True, help="Who may ask for it (optional jobs). Default: everybody."
            ),
            click.option("--note", default="", help="For other administrators."),
        ]
    ):
        function = option(function)
    return function


def _order(
    package: str,
    group: str,
    version: str | None,
    program: str,
    optional: bool,
    offer_after: datetime | None,
    mandatory_after: datetime | None,
    expires_after: datetime | None,
    clock: Any,
    parameters: tuple[str, ...],
    after: tuple[str, ...],
    priority: int,
    recurrence: str | None,
    ignore_windows: bool,
    defer_times: int,
    defer_for: int,
    notify: bool,
    countdown: int,
    busy_policy: Any,
    blocking_policy: Any,
    restart_policy: Any,
    users: tuple[str, ...],
    note: str,
) -> JobOrder:
    return JobOrder(
        package=package,
        group=group,
        version=version,
        program=program,
        purpose="optional" if optional else "mandatory",
        offer_after=offer_after,
        mandatory_after=mandatory_after,
        expires_after=expires_after,
        clock=clock,
        parameters=dict(_parameter(text) for text in parameters),
        after=after,
        priority=priority,
        window_policy="ignore" if ignore_windows else "respect",
        deferral=Deferral(defer_times, defer_for),
        notify=Notify(notify, countdown),
        busy_policy=busy_policy,
        blocking_policy=blocking_policy,
        restart_policy=restart_policy,
        recurrence=recurrence,
        allowed_users=users or None,
        note=note,
    )


def _parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise RequestError(f"--param {text!r} has no value: write NAME=VALUE.", code="usage")
    return name, value


@contextlib.contextmanager
def _said_in_options() -> Iterator[None]:
    """The site names a job's settings as its API does; whoever typed options is told of those."""
    try:
        yield
    except RequestError as error:
        if error.code not in {"job.contradiction", "job.recurrence"}:
            raise
        said = _SETTING.sub(lambda found: _OPTIONS[found[0]], error.message)
        raise RequestError(said, code=error.code) from None


@command.command("plan")
@_ordering
@click.pass_obj
def plan(settings: Settings, /, **given: Any) -> None:
    """Say what a job would do: which clients, how many bytes, who is left out and why. Changes nothing.

    TIME is +2h or +3d from now, or a date and time with its offset: 2026-01-31T22:00+01:00.
    """
    with settings.connect() as api, _said_in_options():
        planned = api.post("/jobs", JobRequest(_order(**given), dry_run=True), JobPlan)
    jobs.show_plan(settings, planned)


@command.command("create")
@_ordering
@click.option("--dry-run", is_flag=True, help="Same as `job plan`.")
@click.pass_obj
def create(settings: Settings, /, dry_run: bool, **given: Any) -> None:
    """Order that PACKAGE's program runs on a group.

    TIME is +2h or +3d from now, or a date and time with its offset: 2026-01-31T22:00+01:00.
    """
    order = _order(**given)
    with settings.connect() as api, _said_in_options():
        if dry_run:
            jobs.show_plan(settings, api.post("/jobs", JobRequest(order, dry_run=True), JobPlan))
            return
        if not settings.yes and settings.output == "table" and jobs.somebody_looks():
            planned = api.post("/jobs", JobRequest(order, dry_run=True), JobPlan)
            confirm(settings, jobs.in_one_sentence(planned))
        job = api.post("/jobs", JobRequest(order), JobView)
    if show.print_data(job, settings.output):
        return
    click.echo(f"Job {job.id}: {job.program} of {job.package} {job.version} on group {job.order.group}.")
    if job.approvals_needed > job.approvals_given:
        click.echo(
            f"It waits for {job.approvals_needed} approvals: pcm job approve {job.id} --keys KEYS --approver NAME"
        )
    else:
        click.echo(f"Next: pcm job watch {job.id}")


@command.command("list")
@click.option("--limit", type=click.IntRange(1), default=None, help="At most so many.")
@click.pass_obj
def list_jobs(settings: Settings, limit: int | None) -> None:
    """List jobs, newest first."""
    with settings.connect() as api:
        found = list(api.pages("/jobs", JobView, limit))
    if show.print_data(found, settings.output):
        return
    rows = [
        (
            j.id,
            j.state,
            show.plain(f"{j.program} {j.package} {j.version}"),
            show.plain(j.order.group),
            jobs.counts(j),
            show.ago(j.created),
        )
        for j in found
    ]
    columns = ("job", "state", "~order", "~group", "~clients", "created")
    show.print_table(columns, rows, none="No job yet. Next: pcm job create PACKAGE --group all")


@command.command("show")
@click.argument("job")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="At most so many clients.")
@click.option("--output-of", metavar="HOST", help="Show what the program wrote there, whole as reported.")
@click.pass_obj
def show_job(settings: Settings, job: str, limit: int, output_of: str | None) -> None:
    """Show a job: each client's state, results and refusals."""
    with settings.connect() as api:
        detail = api.get(f"/jobs/{segment(job)}", JobDetail, limit=limit)
    jobs.show_detail(settings, detail, output_of)


@command.command("watch")
@click.argument("job")
@click.option("--every", type=DURATION, default="2s", show_default=True, help="How often to look.")
@click.option("--timeout", type=DURATION, help="Give up after this (exit code 1).")
@click.pass_obj
def watch(settings: Settings, job: str, every: int, timeout: int | None) -> None:
    """Follow a job until every client is done. Exit code 1 if one of them failed or refused."""
    with settings.connect() as api:
        jobs.watch(settings, api, job, every, timeout)


@command.command("cancel")
@click.argument("job")
@click.pass_obj
def cancel(settings: Settings, job: str) -> None:
    """Cancel a job: clients that have not started drop it when they next ask. What ran stays."""
    with settings.connect() as api:
        view = api.get(f"/jobs/{segment(job)}", JobDetail, limit=1).job
        confirm(
            settings,
            f"Job {view.id} ({view.program} of {view.package} {view.version}; {jobs.counts(view)}) will be cancelled.",
        )
        view = api.post(f"/jobs/{segment(job)}/cancel", None, JobView)
    if not show.print_data(view, settings.output):
        click.echo(f"Job {view.id} is {view.state}: each client shows as cancelling until it confirms.")


@command.command("approve")
@click.argument("job")
@click.option(
    "--keys",
    type=FOLDER,
    required=True,
    envvar="PCM_KEYS",
    help="Keyring with your key.",
)
@click.option("--approver", required=True, metavar="NAME", help="Whose key signs: approver-NAME.")
@click.option("--emergency", is_flag=True, help="Lift spread and age as well.")
@click.option("--passphrase-file", metavar="FILE", help="First line: the key's passphrase. '-': standard input.")
@click.pass_obj
def approve(
    settings: Settings, job: str, keys: Path, approver: str, emergency: bool, passphrase_file: str | None
) -> None:
    """Sign that a job may run, after reading what exactly it is. The key stays on this machine."""
    from pcm.cli.approving import approve_job  # noqa: PLC0415 - see cli.verbs

    with settings.connect() as api:
        approve_job(settings, api, job, approver, keys, passphrase(passphrase_file, new=False), emergency=emergency)
