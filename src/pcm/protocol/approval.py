"""An approval: what approvers sign, off-server, so that an order may run. The payload of a DSSE envelope.

Signed in step 3 on approvers' machines, carried in instructions (step 5), verified on each client (step 6). It names exactly
one order: the package, release, program, parameters and manifest, whether and when it recurs, and the clients it is for
(`pcm.model.audience`).
"""

from datetime import datetime
from typing import Annotated

import msgspec

from pcm.model.instruction import Instruction
from pcm.model.package import Release, Sha256
from pcm.model.schedule import Clock, reading_of
from pcm.protocol import codec

KIND = "pcm.approval"
PAYLOAD_TYPE = "application/vnd.pcm.approval+json"
MAX_BYTES = 64 * 2**10


class ApprovalOrder(codec.Document, frozen=True, kw_only=True, omit_defaults=True, tag=KIND):
    """What approvers agree to.

    `audience`: Merkle root over the client ids; None: any client of the site. `recurrence`: see `recurrence_told`; None: once.
    """

    site: Annotated[str, msgspec.Meta(max_length=63)]
    job: str
    generation: Annotated[int, msgspec.Meta(ge=1)]
    package: str
    release: Release
    program: str
    manifest_sha256: Sha256
    parameters: dict[str, str] = msgspec.field(default_factory=dict)
    recurrence: Annotated[str, msgspec.Meta(max_length=500)] | None = None
    audience: Sha256 | None = None
    audience_size: int | None = None
    expires: datetime
    emergency: bool = False


def read_approval(data: bytes) -> ApprovalOrder:
    """Parse an approval's payload.

    Raises:
        RequestError: `protocol.*`.
    """
    return codec.decode(ApprovalOrder, data, max_bytes=MAX_BYTES)


def write_approval(order: ApprovalOrder) -> bytes:
    """Bytes that approvers sign."""
    return codec.encode(order)


def approves(order: ApprovalOrder, instruction: Instruction, site: str) -> bool:
    """Tell whether an approval speaks of exactly this instruction (its audience and expiry are checked apart)."""
    return (
        order.site == site
        and order.job == instruction.job
        and order.generation == instruction.generation
        and order.package == instruction.package
        and order.release == instruction.release
        and order.program == instruction.program
        and order.manifest_sha256 == instruction.manifest.sha256
        and order.parameters == instruction.parameters
        and order.recurrence == recurrence_told(instruction.recurrence, instruction.offer_after, instruction.clock)
    )


def recurrence_told(rule: str | None, first: datetime, clock: Clock) -> str | None:
    """How an order recurs, in one line that approvers read and sign; None: it does not.

    With what the rule is counted from: whoever could move that could have the next time come at once, again and again.
    """
    return None if rule is None else f"{rule} from {reading_of(first, clock).isoformat()} by clock {clock}"
