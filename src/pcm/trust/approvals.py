"""Approvals: who has agreed to an order. What a stolen policy key cannot do.

Serves step 6 (part of check 11) and tells step 7 whether the brake is lifted. Approvers' keys come from the site policy in
the package repository, the number of approvals from the manifest; neither from the instruction. Pure: the caller reads
the clock.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pcm.model.audience import in_audience
from pcm.model.errors import RequestError
from pcm.model.instruction import Approval, Instruction
from pcm.model.names import instruction_id
from pcm.protocol.approval import MAX_BYTES, PAYLOAD_TYPE, ApprovalOrder, approves, read_approval
from pcm.protocol.policy import SitePolicy
from pcm.trust import envelopes
from pcm.trust.codes import refuse


@dataclass(frozen=True)
class Agreement:
    """Whose approvals hold for one instruction on one client. `emergency`: enough of them lift the brake."""

    approvers: frozenset[str] = frozenset()
    emergency: bool = False


_NOBODY = Agreement()


def check_approvals(
    instruction: Instruction, demanded: int, policy: SitePolicy, client_id: str, now: datetime
) -> Agreement:
    """Count the approvals of one instruction, and refuse it if they are too few.

    An approval that does not hold (damaged, expired, for other clients or orders, by nobody we know) counts nothing and does no
    other harm. One key counts once, in however many envelopes it signed.

    Args:
        instruction: With the approvals that it carries.
        demanded: `approvals` of the program in the signed manifest.
        policy: The verified site policy.
        client_id: This client.
        now: Aware.

    Raises:
        TrustError: `trust.approval`.
    """
    if not instruction.approvals and not demanded:
        return _NOBODY
    approvers: set[str] = set()
    emergency: set[str] = set()
    for approval in instruction.approvals:
        order, names = _open(approval, policy)
        if order is None or not _speaks_of(order, approval.proof, instruction, policy.site, client_id, now):
            continue
        approvers |= names
        if order.emergency:
            emergency |= names
    if len(approvers) < demanded:
        raise refuse(
            "trust.approval",
            f"Program {instruction.program} of {instruction.package} needs {demanded} approval(s); "
            f"{len(approvers)} of those that came with the instruction hold for this client.",
        )
    lifted = 0 < policy.emergency_approvals <= len(emergency)
    return Agreement(frozenset(approvers), lifted)


def _open(approval: Approval, policy: SitePolicy) -> tuple[ApprovalOrder | None, set[str]]:
    try:
        data = base64.b64decode(approval.envelope, validate=True)
        payload, signatures = envelopes.read(data, payload_type=PAYLOAD_TYPE, max_bytes=2 * MAX_BYTES)
        keys = {approver.name: approver.public_key for approver in policy.approvers}
        names = envelopes.signed_by(PAYLOAD_TYPE, payload, signatures, keys)
        return (read_approval(payload), names) if names else (None, set())
    except (RequestError, ValueError):
        return None, set()


def _speaks_of(
    order: ApprovalOrder, proof: Sequence[str], instruction: Instruction, site: str, client_id: str, now: datetime
) -> bool:
    return (
        approves(order, instruction, site)
        # an order agreed to once is one assignment: under a second id it would be another one, and run again
        and instruction.id == instruction_id(order.job, client_id)
        and order.expires.tzinfo is not None
        and order.expires > now
        and (order.audience is None or in_audience(client_id, proof, order.audience))
    )
