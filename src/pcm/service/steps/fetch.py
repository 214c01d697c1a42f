"""Bring what is missing of the package into the client's store, before the first byte of it runs (KB Q136932).

Step 8 of 12, after `steps/check`, before `steps/stage`. What is here already never travels again. It believes nothing that comes:
the store takes bytes by their hash only. Also used to bring content early, while an instruction still waits.
"""

from pcm.model.assignment import State as Stage
from pcm.service.journal import Change
from pcm.service.work import Context, Work


def fetch(work: Work, context: Context) -> Change | None:
    """See to it that the store holds every file of the package.

    Raises:
        TransferError: no server gives a file. TrustError: what came is not what was signed. StoreError: no space.
    """
    missing = {
        file.sha256: file.length for file in work.manifest.files if not context.store.has(file.sha256, file.length)
    }
    work.detail = {"missing": len(missing), "bytes": sum(missing.values())}
    if missing:
        if not work.returning:
            _show_downloading(work, context)
        context.turn_to_what_takes_long()
        context.bring(work.needed())
    if not work.record.fetched:
        context.journal.mark_fetched(work.line.id, soon=True)
    return None


def _show_downloading(work: Work, context: Context) -> None:
    change = Change(
        state=Stage.DOWNLOADING,
        reason="Its files are being brought.",
        not_before=work.record.not_before,
        attempts=work.record.attempts,
    )
    context.journal.change(work.line.id, change, context.clock(), durable=False)
