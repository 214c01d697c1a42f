"""Giving an approval: an approver signs an order off-server, and the site carries it to each client.

Serves steps 3 (`pcm job approve` on the approver's machine) and 5 (`site.compile` puts it into instructions).
`approvals` verifies it on the client. It decides nothing.
"""

import base64
from collections.abc import Sequence

from securesystemslib.signer import Signer

from pcm.model.instruction import Approval
from pcm.protocol.approval import PAYLOAD_TYPE, ApprovalOrder, write_approval
from pcm.trust import envelopes


def sign_approval(order: ApprovalOrder, envelope: bytes | None, signer: Signer) -> bytes:
    """Add one approver's signature to an order.

    Args:
        order: What the approver has read.
        envelope: With the signatures so far; None for the first.
        signer: The approver's ed25519 key.

    Returns:
        The envelope (DSSE, JSON).

    Raises:
        RequestError: `conflict`: the envelope carries another order; `protocol.*`.
    """

    def sign(data: bytes) -> bytes:
        return bytes.fromhex(signer.sign(data).signature)

    payload = write_approval(order)
    return envelopes.add_signature(envelope, PAYLOAD_TYPE, payload, signer.public_key.keyid, sign)


def carry(envelope: bytes, proof: Sequence[str] = ()) -> Approval:
    """Put an envelope into an instruction.

    Args:
        envelope: From `sign_approval`.
        proof: This client's place in the order's audience (`pcm.model.audience.audience_proofs`).
    """
    return Approval(envelope=base64.b64encode(envelope).decode(), proof=tuple(proof))
