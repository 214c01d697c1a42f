"""Jobs: an administrator's orders, and the contradictions that are refused when one is made.

Serves step 3 (`site.jobs`) and step 5 (compiled into instructions). Pure values; the site keeps them in its database.
Contradictions are refused at creation with the reason (KB Q174933, Q174462, Q186414), never discovered by silence later.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

import msgspec

from pcm.model.errors import RequestError
from pcm.model.instruction import LONGEST_OCCURRENCE, Deferral, Notify
from pcm.model.recurrence import last_time, parse_rule, shortest_distance
from pcm.model.schedule import check_rule, next_occurrence, reading_of

_A_DAY = timedelta(days=1)  # the last zone on earth is less behind UTC
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


class JobOrder(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an administrator orders: run this program of this package on that group, in these times.

    `mandatory_after` None with purpose mandatory means: as soon as offered. Times are aware; with clock `client` their
    wall-clock reading is meant in each client's own zone.
    """

    package: str
    group: str
    version: str | None = None  # None: the newest published release
    program: str = "install"
    purpose: Literal["mandatory", "optional"] = "mandatory"
    offer_after: datetime | None = None  # None: now
    mandatory_after: datetime | None = None
    expires_after: datetime | None = None
    clock: Literal["utc", "client"] = "utc"
    parameters: dict[str, str] = msgspec.field(default_factory=dict)
    after: tuple[str, ...] = ()
    priority: Annotated[int, msgspec.Meta(ge=0, le=100)] = 50
    window_policy: Literal["respect", "ignore"] = "respect"
    deferral: Deferral = Deferral()
    notify: Notify = Notify()
    allowed_users: tuple[str, ...] | None = None
    restart_policy: Literal["never", "ask", "force"] = "ask"
    busy_policy: Literal["delay", "ignore"] = "delay"
    blocking_policy: Literal["wait", "close"] = "wait"
    recurrence: Annotated[str, msgspec.Meta(max_length=400)] | None = None
    note: Annotated[str, msgspec.Meta(max_length=1000)] = ""


def check_order(order: JobOrder, now: datetime) -> JobOrder:
    """Return `order` if its settings do not contradict each other.

    Raises:
        RequestError: `job.contradiction`, naming the two settings that cannot both hold; `job.recurrence`: its rule cannot be
            read.
    """
    offer = order.offer_after or now
    for name in ("offer_after", "mandatory_after", "expires_after"):
        moment = getattr(order, name)
        if moment is not None and moment.tzinfo is None:
            raise _contradiction(f"{name} has no time zone; write an offset, such as 2026-01-31T12:00:00Z")
    if order.purpose == "optional":
        _check_optional(order)
    elif order.allowed_users is not None:
        raise _contradiction("allowed_users limits who may ask for an optional job; a mandatory one runs unasked")
    if order.notify.countdown_s and not order.notify.show:
        raise _contradiction(
            "a countdown (notify.countdown_s) that nobody is shown (notify.show) only delays; drop one"
        )
    if order.restart_policy == "force" and not order.notify.show:
        raise _contradiction(
            "a restart that is forced (restart_policy) is always told, but users shall see nothing (notify.show)"
        )
    if order.mandatory_after is not None and order.mandatory_after < offer:
        raise _contradiction("the deadline (mandatory_after) lies before the offer (offer_after)")
    if order.expires_after is not None:
        _check_expiry(order, order.expires_after, offer, now)
    if order.deferral.times and not order.deferral.max_s:
        raise _contradiction("deferral.times without deferral.max_s: say for how long users may postpone")
    if order.recurrence is not None:
        _check_recurrence(order, order.recurrence, now)
    return order


def last_expiry(order: JobOrder) -> datetime | None:
    """When the last time of a recurring order expires, by the order's clock; None: its rule, or its times, do not end."""
    if order.recurrence is None or order.offer_after is None or order.expires_after is None:
        return None
    rule, start = parse_rule(order.recurrence), reading_of(order.offer_after, order.clock)
    last = last_time(rule, start)
    return None if last is None else last.replace(tzinfo=UTC) + (order.expires_after - order.offer_after)


def _check_optional(order: JobOrder) -> None:
    if order.mandatory_after is not None:
        raise _contradiction(
            "an optional job has no deadline (mandatory_after); make it mandatory or drop the deadline"
        )
    if order.deferral.times and order.restart_policy != "force":
        raise _contradiction("an optional job is never forced, so there is nothing to defer but a restart that is")
    if order.notify.countdown_s:
        raise _contradiction("an optional job starts when a user asks, so there is no countdown (notify.countdown_s)")
    if order.recurrence is not None:
        raise _contradiction("an optional job runs when a user asks, so it does not recur (recurrence)")


def _check_expiry(order: JobOrder, expires: datetime, offer: datetime, now: datetime) -> None:
    if expires <= offer:
        raise _contradiction("the job expires (expires_after) before it is offered (offer_after)")
    if expires <= now and order.recurrence is None:
        raise _contradiction("the job has already expired (expires_after lies in the past)")
    if order.mandatory_after is not None and expires <= order.mandatory_after:
        raise _contradiction("the job expires (expires_after) before its deadline (mandatory_after)")
    deadline = order.mandatory_after or offer
    if order.deferral.max_s and deadline + timedelta(seconds=order.deferral.max_s) > expires:
        raise _contradiction("users may defer (deferral.max_s) past the time when the job expires (expires_after)")


def _check_recurrence(order: JobOrder, text: str, now: datetime) -> None:
    """Every time of a recurring order is over before the next one comes (KB Q141192): nothing runs into the other."""
    try:
        rule = check_rule(text, order.clock, "recurrence")
    except ValueError as error:
        raise RequestError(f"The job's rule cannot be read: {error}.", code="job.recurrence") from None
    if order.offer_after is None:
        raise _contradiction("a recurring job counts its times from offer_after; say when that is")
    start = reading_of(order.offer_after, order.clock)
    if next_occurrence(text, order.offer_after, order.clock, UTC, now - _A_DAY) is None:
        raise _contradiction(f"its rule (recurrence) gives no time after {now:%Y-%m-%d %H:%M} UTC")
    deadline = order.mandatory_after or order.offer_after
    ends = {
        "becomes mandatory (mandatory_after)": deadline - order.offer_after,
        "may be deferred (deferral.max_s)": deadline - order.offer_after + timedelta(seconds=order.deferral.max_s),
    }
    if order.expires_after is not None:
        ends["expires (expires_after)"] = order.expires_after - order.offer_after
    between = shortest_distance(rule, start)
    for what, length in ends.items():
        if length > LONGEST_OCCURRENCE:
            raise _contradiction(f"each time of it {what} more than a year after it comes")
        if between is not None and length > between:
            raise _contradiction(
                f"it recurs after {in_words(between)}, but each time {what} {in_words(length)} after it comes"
            )


def job_id(number: int) -> str:
    """The job id of a 50-bit number: 'j' and ten letters or digits. The site draws the number at random."""
    return "j" + "".join(_ALPHABET[(number >> shift) & 31] for shift in range(0, 50, 5))


def _contradiction(why: str) -> RequestError:
    return RequestError(f"The job contradicts itself: {why}.", code="job.contradiction")


def in_words(length: timedelta) -> str:
    """A span of time in its largest whole unit: `2 days`."""
    seconds = int(length.total_seconds())
    for unit, name in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds and seconds % unit == 0:
            return f"{seconds // unit} {name}{'' if seconds == unit else 's'}"
    return f"{seconds} s"
