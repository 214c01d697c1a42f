"""Assemble the package directory, file by file, in a place that only administrators can write to.

Step 8 of 12, after `steps/fetch`, before `steps/consent`. `steps/run` verifies the whole directory once more before it starts
anything. No archive is unpacked and nothing is linked to the store. A file that the store has lost or that its disk has
spoilt is brought again. A program that is signed to run as a user can read its own package directory, and of everything else
that the service keeps nothing; it never runs as an administrator, whoever is logged on.
"""

from pcm.model.errors import StoreError
from pcm.service.journal import Change
from pcm.service.steps.check import check_user
from pcm.service.work import Context, Work

_MOMENT_BYTES, _MOMENT_FILES = 1 << 20, 32  # more than these take longer than a moment


def stage(work: Work, context: Context) -> Change | None:
    """Make this run's package directory.

    Raises:
        TrustError: bytes that are not the signed ones. StoreError: no space. MachineError: the place is not protected.
    """
    if work.manifest.content_bytes() > _MOMENT_BYTES or len(work.manifest.files) > _MOMENT_FILES:
        context.turn_to_what_takes_long()
    try:
        _assemble(work, context)
    except StoreError as error:
        if error.code != "store.damaged":
            raise
        # the store has thrown the spoilt file away: bring it, and assemble anew
        let_go(work, context)
        context.bring(work.needed())
        _assemble(work, context)
    work.detail = {"files": len(work.manifest.files)}
    return None


def let_go(work: Work, context: Context) -> None:
    """Take away this run's package directory, if there is one; an empty one may be the next run's."""
    if work.staging is not None:
        work.staging.close()
        work.staging = None
        context.machine.release_staged(context.staging, work.run_id)


def _assemble(work: Work, context: Context) -> None:
    work.staging = context.machine.stage(context.staging, work.run_id, check_user(work, context))
    for file in work.manifest.files:
        work.staging.add(file, context.store.read(file.sha256, file.length))
