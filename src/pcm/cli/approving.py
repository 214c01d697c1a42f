"""Signing an approval on the approver's own machine. Serves step 3: `pcm job approve`.

The approver reads what the bytes say, not what the site says about them: the payload itself is parsed and shown, then signed.
"""

from pathlib import Path

import click

from pcm.cli import show
from pcm.cli.api import Api, segment
from pcm.cli.ask import confirm
from pcm.cli.settings import Settings
from pcm.model.errors import RequestError
from pcm.protocol.admin_jobs import ApprovalOffer, ApprovalQuestion, JobView
from pcm.protocol.approval import PAYLOAD_TYPE, ApprovalOrder, read_approval
from pcm.trust import envelopes
from pcm.trust.keyring import Keyring
from pcm.trust.keys import Ask


def approve_job(
    settings: Settings, api: Api, job: str, approver: str, keys: Path, ask: Ask, *, emergency: bool
) -> None:
    """Fetch what is to be signed, show it, sign it after a yes, and hand it in.

    Raises:
        RequestError: `conflict`: the site asks for something else than was meant; `not_confirmed`; as keyring and API say.
    """
    question = api.get(f"/jobs/{segment(job)}/approval", ApprovalQuestion, emergency="true" if emergency else None)
    if question.payload_type != PAYLOAD_TYPE:
        raise RequestError(
            f"The site asks to sign a {question.payload_type[:60]!r}, which is no approval.", code="conflict"
        )
    order = read_approval(question.payload)
    if order.job != job or order.emergency != emergency:
        raise RequestError("The site asks to sign another order than the one that you named.", code="conflict")
    confirm(settings, _sentence(order))
    signer = Keyring(keys, ask).signer(f"approver-{approver}")

    def sign(message: bytes) -> bytes:
        return bytes.fromhex(signer.sign(message).signature)

    keyid = signer.public_key.keyid
    envelope = envelopes.add_signature(None, PAYLOAD_TYPE, question.payload, keyid, sign)
    view = api.post(f"/jobs/{segment(job)}/approvals", ApprovalOffer(envelope), JobView)
    if not show.print_data(view, settings.output):
        missing = max(0, view.approvals_needed - view.approvals_given)
        click.echo(
            f"Approved as {approver}. " + (f"{missing} more needed." if missing else f"Job {view.id} may run now.")
        )


def _sentence(order: ApprovalOrder) -> str:
    whom = (
        "any client of the site"
        if order.audience is None
        else f"a fixed list of {order.audience_size or 'some'} clients"
    )
    # a site in strange hands wrote these: none may look like another line
    parameters = show.one_line(", ".join(f"{name}={value}" for name, value in order.parameters.items()))
    lines = [
        f"You are about to approve, for site {order.site}:",
        f"  run {order.program} of {order.package}, release {order.release} (manifest {order.manifest_sha256[:16]}…)",
        f"  on {whom}, job {order.job}, generation {order.generation}, until {show.moment(order.expires)}",
    ]
    if parameters:
        lines.append(f"  with {parameters}")
    if order.recurrence is not None:
        lines.append(f"  AGAIN AND AGAIN: {order.recurrence}")
    if order.emergency:
        lines.append("  EMERGENCY: everywhere at once, without spread and age.")
    return "\n".join(map(show.one_line, lines))
