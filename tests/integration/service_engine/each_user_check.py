"""One whole check of a client whose order runs once for each of two users; prints what came of it. `PCM_FAULT` kills it on the way.

    python tests/integration/service_engine/each_user_check.py DIR

Numbers without names log on; what their runs leave in DIR/marks tells how often each ran.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from pcm.model.program import Program
from pcm.service import faults, recovery, runner
from pcm.service.places import create_places, find_places
from pcm.service.plan import Presence
from tests.integration.service_engine.trivial import Client

USERS = ("61300", "61301")
SETUP = b'#!/bin/sh\ntouch "$1/marks/$(id -u).$PCM_RUN_ID"\n'


def main(arguments: Sequence[str]) -> int:
    """One check in this process."""
    faults.arm(os.environ, home_given=True)
    home = Path(arguments[0])
    (home / "marks").mkdir(exist_ok=True)
    (home / "marks").chmod(0o1777)
    program = Program(argv=("setup", str(home)), run_as="each_user", timeout_s=20)
    client = Client(home, {"install": program}, setup=SETUP)
    create_places(find_places(home))
    recovery.reconcile(client.context)
    client.take_in(client.instruction())

    def look(_: object) -> Any:
        presence = Presence(USERS, USERS[0])
        return replace(client.situation(), presence=presence, user_runs=client.context.journal.user_runs())

    runner.drain(client.context, look)
    [runs] = client.context.journal.user_runs().values()
    told = {
        "ran": sorted(path.stem for path in (home / "marks").iterdir()),
        "users": sorted((each.user, each.state.value, each.code) for each in runs),
        "open": len(client.context.history.open_runs()),
        "results": sum(outcome.result is not None for _, outcome in client.context.journal.unreported()),
        "ledger": client.state.rows("SELECT count(*) FROM ledger")[0][0],
        "staging": sorted(path.name for path in client.context.staging.iterdir()),
    }
    client.close()
    sys.stdout.write(json.dumps(told) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
