"""How a run will be found again, said before it starts: the same for every way of owning its processes. Serves step 10."""

import time

from pcm.service.machine.commands import check_launch
from pcm.service.machine.interface import Launch, RunReference
from pcm.service.machine.linux.accounts import account_named
from pcm.service.machine.linux.clock import boot_id


def make_reference(launch: Launch, back_end: str) -> RunReference:
    """Check a launch and name its run; nothing has happened yet.

    Raises:
        MachineError: as `Processes.reference_of`.
    """
    check_launch(launch)
    return RunReference(
        run_id=launch.run_id,
        back_end=back_end,
        boot_id=boot_id(),
        output_path=str(launch.output_path),
        output_limit_bytes=launch.output_limit_bytes,
        user_id=account_named(launch.run_as).user_id,
        started_s=time.monotonic(),
        timeout_s=launch.timeout_s,
        grace_s=launch.grace_s,
    )
