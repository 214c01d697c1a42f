"""Jobs: an administrator's orders, and the contradictions that are refused when one is made.

Serves step 3 (`site.jobs`) and step 5 (compiled into instructions). Pure values; the site keeps them in its database.
Contradictions are refused at creation with the reason (KB Q174933, Q174462, Q186414), never discovered by silence later.
"""

from datetime import datetime, timedelta
from typing import Annotated, Literal

import msgspec

from pcm.model.errors import RequestError
from pcm.model.instruction import Deferral, Notify

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
        RequestError: `job.contradiction`, naming the two settings that cannot both hold; `job.unsupported`: a setting that the
            format has and no client acts on yet (KB Q154931).
    """
    _check_supported(order)
    offer = order.offer_after or now
    for name in ("offer_after", "mandatory_after", "expires_after"):
        moment = getattr(order, name)
        if moment is not None and moment.tzinfo is None:
            raise _contradiction(f"{name} has no time zone; write an offset, such as 2026-01-31T12:00:00Z")
    if order.purpose == "optional" and order.mandatory_after is not None:
        raise _contradiction(
            "an optional job has no deadline (mandatory_after); make it mandatory or drop the deadline"
        )
    if order.purpose == "mandatory" and order.allowed_users is not None:
        raise _contradiction("allowed_users limits who may ask for an optional job; a mandatory one runs unasked")
    if order.purpose == "optional" and order.deferral.times:
        raise _contradiction("an optional job is never forced, so there is nothing to defer")
    if order.mandatory_after is not None and order.mandatory_after < offer:
        raise _contradiction("the deadline (mandatory_after) lies before the offer (offer_after)")
    if order.expires_after is not None:
        _check_expiry(order, order.expires_after, offer, now)
    if order.deferral.times and not order.deferral.max_s:
        raise _contradiction("deferral.times without deferral.max_s: say for how long users may postpone")
    return order


def _check_supported(order: JobOrder) -> None:
    if order.restart_policy != "ask":
        raise _unsupported(f"restart_policy {order.restart_policy!r}", "clients restart no computer by themselves")
    if order.notify != Notify():
        raise _unsupported("notify", "clients show no message and no countdown")
    if order.busy_policy != "delay":
        raise _unsupported("busy_policy", "clients do not look whether somebody is busy")
    if order.blocking_policy != "wait":
        raise _unsupported("blocking_policy", "clients close no programs")
    if order.recurrence is not None:
        raise _unsupported("recurrence", "clients run each order once")


def _check_expiry(order: JobOrder, expires: datetime, offer: datetime, now: datetime) -> None:
    if expires <= offer:
        raise _contradiction("the job expires (expires_after) before it is offered (offer_after)")
    if expires <= now:
        raise _contradiction("the job has already expired (expires_after lies in the past)")
    if order.mandatory_after is not None and expires <= order.mandatory_after:
        raise _contradiction("the job expires (expires_after) before its deadline (mandatory_after)")
    deadline = order.mandatory_after or offer
    if order.deferral.max_s and deadline + timedelta(seconds=order.deferral.max_s) > expires:
        raise _contradiction("users may defer (deferral.max_s) past the time when the job expires (expires_after)")


def job_id(number: int) -> str:
    """The job id of a 50-bit number: 'j' and ten letters or digits. The site draws the number at random."""
    return "j" + "".join(_ALPHABET[(number >> shift) & 31] for shift in range(0, 50, 5))


def _unsupported(what: str, why: str) -> RequestError:
    message = f"The job sets {what}, but this version of the service does not do this yet: {why}. Leave it out."
    return RequestError(message, code="job.unsupported")


def _contradiction(why: str) -> RequestError:
    return RequestError(f"The job contradicts itself: {why}.", code="job.contradiction")
