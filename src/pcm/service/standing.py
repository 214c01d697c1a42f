"""What concerns the whole computer, for whoever looks: a pause, a hold, a restart that is wanted, content on its way.

Serves step 9, beside `views`, which shows single instructions. It changes nothing.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime

from pcm.protocol import local
from pcm.protocol.manifest import Manifest
from pcm.service import restart, transfer_progress
from pcm.service.outlook import Outlook
from pcm.service.pausing import read_pause
from pcm.service.places import Places
from pcm.service.plan import Hold
from pcm.service.planner_case import SETTLED
from pcm.service.records import InstructionRecord
from pcm.service.state import State


def show_standing(state: State, outlook: Outlook | None, now: datetime) -> local.Standing:
    """How this computer stands, but for content on its way. `outlook` None: without the reason why nothing starts."""
    pause = read_pause(state, now)
    hold = Hold("", "") if outlook is None else outlook.find_hold(now) or Hold("", "")
    return local.Standing(
        pause=None if pause is None else local.Pause(pause.since, pause.by, pause.until),
        hold=hold.reason,
        hold_code=hold.code,
        restart=_restart(state),
    )


def show_transfer(
    places: Places, records: Iterable[InstructionRecord], manifests: Mapping[str, Manifest]
) -> local.Transfer | None:
    """The content that comes now, if it is for one of these instructions."""
    snapshot = transfer_progress.read(places.runtime)
    if snapshot is None:
        return None
    for record in records:
        manifest = manifests.get(record.manifest_sha256)
        if manifest is not None and record.state not in SETTLED and snapshot.fits(manifest):
            return transfer_progress.to_transfer(record.id, snapshot)
    return None


def _restart(state: State) -> local.Restart | None:
    pending = restart.current(state)
    if pending is None:
        return None
    return local.Restart(
        packages=pending.packages,
        policy=pending.policy,
        reason=pending.reason,
        due=pending.due,
        deferred_until=pending.deferred_until,
        deferrals_left=pending.deferrals_left,
        latest=pending.latest,
        requested_by=pending.requested_by or "",
        begun=pending.begun is not None,
    )
