"""How jobs look: a plan, a job with its clients, a job while it runs. Serves steps 3 and 12, behind `pcm job`."""

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

import click
import msgspec

from pcm.cli import show
from pcm.cli.api import Api, segment
from pcm.cli.settings import Settings
from pcm.model.errors import RequestError
from pcm.model.job import JobOrder, in_words
from pcm.model.schedule import next_occurrence, occurrence_at
from pcm.protocol.admin import MAX_LIMIT, AssignmentView, Page, ResultView
from pcm.protocol.admin_jobs import JobDetail, JobPlan, JobView
from pcm.protocol.printable import printable

_SHOWN_LINES = 12
_BAD = frozenset({"failed", "refused"})
_SETTLED = frozenset(
    {
        "succeeded",
        "failed",
        "refused",
        "not_applicable",
        "already_installed",
        "expired",
        "withdrawn",
        "cancelled",
        "restart_pending",
    }
)


def somebody_looks() -> bool:
    """Whether a person sits at this terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def counts(job: JobView) -> str:
    """`3 succeeded, 1 failed`."""
    return (
        ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in sorted(job.counts.items()) if count)
        or "none"
    )


def in_one_sentence(plan: JobPlan) -> str:
    """What a job would do."""
    sentence = (
        f"{plan.program} of {plan.package} {plan.version} (release {plan.release}) on {plan.included} clients"
        f"{f', {plan.excluded} left out' if plan.excluded else ''}; at most {show.size(plan.download_bytes)} each."
    )
    return sentence + (f" It needs {plan.approvals_needed} approvals." if plan.approvals_needed else "")


def show_plan(settings: Settings, plan: JobPlan) -> None:
    """Show a plan."""
    if show.print_data(plan, settings.output):
        return
    show.print_facts(
        (
            ("package", show.plain(f"{plan.package} {plan.version}, release {plan.release}")),
            ("program", show.plain(plan.program)),
            ("command", show.plain(" ".join(plan.argv))),
            ("clients", f"{plan.included} included, {plan.excluded} left out"),
            ("download", f"at most {show.size(plan.download_bytes)} per client"),
            ("approvals", plan.approvals_needed or ""),
        )
    )
    for note in plan.notes:
        click.echo(f"note: {printable(note)}")
    rows = [(c.host_name, c.client_id[:12], c.included, show.plain(c.reason)) for c in plan.clients]
    show.print_table(("host", "client", "included", "why"), rows, none="The group is empty: the job would do nothing.")
    if plan.included + plan.excluded > len(plan.clients):
        click.echo(f"… and {plan.included + plan.excluded - len(plan.clients)} more clients.")


def show_detail(settings: Settings, detail: JobDetail, output_of: str | None = None) -> None:
    """Show a job, its clients, what ran and what was refused."""
    if output_of is not None:
        _show_output(settings, detail, output_of)
        return
    if show.print_data(detail, settings.output):
        return
    job = detail.job
    show.print_facts(
        (
            ("job", job.id),
            ("state", job.state),
            ("order", show.plain(f"{job.program} of {job.package} {job.version} (release {job.release})")),
            ("group", show.plain(job.order.group)),
            ("purpose", job.order.purpose),
            *_times(job.order),
            ("deadline", job.order.mandatory_after if job.order.recurrence is None else ""),
            ("expires", job.expires),
            ("created", show.plain(f"{show.moment(job.created)} by {job.created_by}")),
            ("approvals", f"{job.approvals_given} of {job.approvals_needed}" if job.approvals_needed else ""),
            ("note", show.plain(job.order.note) if job.order.note else ""),
            ("clients", counts(job)),
        )
    )
    recurs = job.order.recurrence is not None
    rows = [
        (a.host_name, a.state, *((_reading(a.occurrence),) if recurs else ()), show.ago(a.changed), _reason(a))
        for a in detail.assignments.items
    ]
    columns = ("host", "state", *(("last time",) if recurs else ()), "changed", "reason")
    show.print_table(columns, rows, none="No client is in its group.")
    if detail.assignments.next is not None:
        click.echo("… and more clients (--limit, or --json page by page)")
    _show_results(detail)
    show.print_refusals((r.code, r.count, r.at, f"on {r.host_name}", r.reason) for r in detail.refusals)


def _times(order: JobOrder) -> tuple[tuple[str, object], ...]:
    """When a recurring order comes: its rule, how long each time lasts, and the last and next of them by its own clock."""
    if order.recurrence is None or order.offer_after is None:
        return ()
    now = datetime.now(UTC)
    last, next_one = (
        find(order.recurrence, order.offer_after, order.clock, UTC, now) for find in (occurrence_at, next_occurrence)
    )
    spans = ((order.mandatory_after, "mandatory"), (order.expires_after, "expires"))
    after = [f"{what} {in_words(end - order.offer_after)} after" for end, what in spans if end is not None]
    of_whom = "UTC" if order.clock == "utc" else "each client's clock"
    return (
        ("recurs", show.plain(f"{order.recurrence}{'; each time ' if after else ''}{', '.join(after)}")),
        ("last time", f"{_reading(last)} ({of_whom})" if last is not None else "none yet"),
        ("next time", f"{_reading(next_one)} ({of_whom})" if next_one is not None else "never again"),
    )


def _reading(occurrence: datetime | None) -> str:
    """An occurrence as the clock of its order reads."""
    return "" if occurrence is None else f"{occurrence.astimezone(UTC):%Y-%m-%d %H:%M}"


def _reason(assignment: AssignmentView) -> object:
    code = f" [{assignment.code}]" if assignment.code else ""
    return show.plain(f"{assignment.reason}{code}".strip())


def _show_results(detail: JobDetail) -> None:
    if not detail.results:
        return
    of_users = any(result.run_as for result in detail.results)
    rows = [
        (
            show.plain(result.host_name),
            *((show.plain(result.run_as or "system"),) if of_users else ()),
            result.started,
            f"{(result.ended - result.started).total_seconds():.1f} s",
            "timed out" if result.timed_out else result.exit_code,
            result.exit_class,
            "not asked" if result.detected is None else result.detected,
        )
        for result in detail.results
    ]
    as_whom = ("as",) if of_users else ()
    show.print_table(
        ("host", *as_whom, "started", ">took", ">exit code", "means", "detected"), rows, none="", title="Runs"
    )
    for result in detail.results:
        worked = result.exit_class in {"success", "restart", "restarting"} and result.detected is not False
        if not worked and result.output_tail:
            click.echo(click.style(f"Output on {printable(result.host_name)}:", bold=True))
            click.echo("\n".join(f"  {line}" for line in _tail(result)))


def _tail(result: ResultView) -> list[str]:
    return printable(result.output_tail, lines=True).rstrip("\n").split("\n")[-_SHOWN_LINES:]


def _show_output(settings: Settings, detail: JobDetail, host: str) -> None:
    for result in detail.results:
        if host in {result.host_name, result.client_id}:
            if show.print_data(result, settings.output):
                return
            click.echo(printable(result.output_tail, lines=True), nl=False)
            return
    raise RequestError(f"There is no result of {host} for job {detail.job.id}.", code="not_found")


def look_at_all(api: Api, job: str, known: dict[str, int] | None = None) -> JobDetail:
    """A job with all its clients, page by page.

    Args:
        known: Its counts at the last look. While they are the same, nothing has changed and one client is enough.
    """
    path = f"/jobs/{segment(job)}"
    first = api.get(path, JobDetail, limit=1)
    if first.job.counts == known:
        return first
    detail = first = api.get(path, JobDetail, limit=MAX_LIMIT)
    items = list(first.assignments.items)
    while detail.assignments.next is not None:
        detail = api.get(path, JobDetail, limit=MAX_LIMIT, cursor=detail.assignments.next)
        items += detail.assignments.items
    return msgspec.structs.replace(first, assignments=Page(tuple(items)))


def watch(
    settings: Settings,
    api: Api,
    job: str,
    every_s: int,
    timeout_s: int | None,
    wait: Callable[[float], object] = time.sleep,
) -> None:
    """Print every change until all clients are done.

    Args:
        wait: Lets that many seconds pass between two looks.

    Raises:
        RequestError: `job.failed`: a client failed or refused; `job.unfinished`: the time is over.
    """
    end = None if timeout_s is None else time.monotonic() + timeout_s
    known: dict[str, str] = {}
    counted: dict[str, int] | None = None
    while True:
        detail = look_at_all(api, job, counted)
        counted = detail.job.counts
        for item in detail.assignments.items:
            if known.get(item.instruction) != item.state:
                known[item.instruction] = item.state
                if settings.output == "table":
                    reason = f"  {item.reason}" if item.reason else ""
                    click.echo(
                        f"{show.moment(item.changed)}  {show.one_line(item.host_name):<24} {show.one_line(item.state + reason)}"
                    )
        done = not any(count for state, count in detail.job.counts.items() if state not in _SETTLED)
        if done or detail.job.state in {"done", "cancelled", "expired"}:
            break
        if end is not None and time.monotonic() > end:
            raise RequestError(f"Job {detail.job.id} is not done yet: {counts(detail.job)}.", code="job.unfinished")
        wait(every_s)
    if settings.output != "table":
        show.print_data(look_at_all(api, job), settings.output)
    else:
        click.echo(f"Job {detail.job.id}: {counts(detail.job)}.")
    if any(detail.job.counts.get(state) for state in _BAD):
        raise RequestError(f"Job {detail.job.id} did not succeed everywhere: {counts(detail.job)}.", code="job.failed")
