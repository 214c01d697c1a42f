"""One instruction: an assignment as the client reads it. The value that steps 5 (compiled), 6 (verified) and 7 (planned) share.

An instruction chooses among signed programs; it carries no command line. Times are aware, UTC unless `clock` is `client`.
"""

from datetime import datetime, timedelta
from typing import Annotated, Literal

import msgspec

from pcm.model.package import Release, Sha256
from pcm.model.schedule import check_moment, check_rule

Text = Annotated[str, msgspec.Meta(max_length=400)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
LONGEST_OCCURRENCE = timedelta(days=366)


class ManifestReference(msgspec.Struct, frozen=True):
    """The target path, length and SHA-256 of the manifest that the site means."""

    path: Text
    length: Annotated[int, msgspec.Meta(ge=1, le=64 * 2**20)]
    sha256: Sha256


class Deferral(msgspec.Struct, frozen=True, omit_defaults=True):
    """How often, and until how long after the deadline, a user may say 'later'. Zero times: not at all."""

    times: Annotated[int, msgspec.Meta(ge=0, le=100)] = 0
    max_s: Annotated[int, msgspec.Meta(ge=0, le=3660 * 86_400)] = 0


class Notify(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether the user is told, and with how long a countdown before mandatory work starts (KB Q187287, Q185805)."""

    show: bool = True
    countdown_s: Annotated[int, msgspec.Meta(ge=0, le=86_400)] = 0


class Approval(msgspec.Struct, frozen=True, omit_defaults=True):
    """A DSSE envelope (base64 JSON text) with approvers' signatures, and this client's place in its audience."""

    envelope: Annotated[str, msgspec.Meta(max_length=16_384)]
    proof: Annotated[tuple[Annotated[str, msgspec.Meta(max_length=65)], ...], msgspec.Meta(max_length=40)] = ()


class Instruction(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one client should do about one program of one package, and when.

    `generation` counts how often the job was ordered anew: the client runs each (job, generation) at most once.
    `window_policy` says whether mandatory work must wait for a maintenance window. `busy_policy`: whether it waits, within its
    deferral budget, while the person is busy (full screen, call, battery, metered network). `blocking_policy`: whether programs
    that are in its way are only waited for, or closed after they were asked to. `recurrence`: an RFC 5545 RRULE, counted from
    `offer_after`; deadline and expiry then keep their distance from each occurrence (KB Q141192).
    """

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    generation: Annotated[int, msgspec.Meta(ge=1, le=2**31)]
    job: Annotated[str, msgspec.Meta(pattern=r"^j[0-9a-z]{10}$(?!\n)")]
    package: Text
    version: Text
    release: Release
    program: Text
    manifest: ManifestReference
    purpose: Literal["mandatory", "optional"]
    offer_after: datetime
    mandatory_after: datetime | None = None
    expires_after: datetime | None = None
    clock: Literal["utc", "client"] = "utc"
    parameters: Annotated[dict[str, str], msgspec.Meta(max_length=64)] = msgspec.field(default_factory=dict)
    after: Annotated[tuple[str, ...], msgspec.Meta(max_length=64)] = ()
    priority: Annotated[int, msgspec.Meta(ge=0, le=100)] = 50
    window_policy: Literal["respect", "ignore"] = "respect"
    deferral: Deferral = Deferral()
    notify: Notify = Notify()
    allowed_users: Annotated[tuple[Text, ...], msgspec.Meta(max_length=256)] | None = None
    restart_policy: Literal["never", "ask", "force"] = "ask"
    busy_policy: Literal["delay", "ignore"] = "delay"
    blocking_policy: Literal["wait", "close"] = "wait"
    recurrence: Annotated[str, msgspec.Meta(max_length=400)] | None = None
    approvals: Annotated[tuple[Approval, ...], msgspec.Meta(max_length=16)] = ()

    def __post_init__(self) -> None:
        for name in ("offer_after", "mandatory_after", "expires_after"):
            moment: datetime | None = getattr(self, name)
            if moment is not None:
                check_moment(moment, name)
        if self.purpose == "mandatory" and self.mandatory_after is None:
            raise ValueError("a mandatory instruction needs mandatory_after")
        if self.recurrence is not None:
            check_rule(self.recurrence, self.clock, "recurrence")
            for name in ("mandatory_after", "expires_after"):
                moment = getattr(self, name)
                if moment is not None and not timedelta() <= moment - self.offer_after <= LONGEST_OCCURRENCE:
                    raise ValueError(
                        f"{name} must lie within a year after offer_after, for it is counted from each occurrence"
                    )
