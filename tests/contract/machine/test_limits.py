"""Limits of a whole tree are kept, or the program does not run: which of the two, the kernel's control groups decide."""

from pathlib import Path

import pytest

from pcm.model.errors import MachineError
from pcm.service.machine.interface import Account, Ended, Processes, TreeLimits
from pcm.service.machine.linux.systemd import check_limits
from pcm.service.machine.linux.unit import controllers_of, unit_settings
from tests.contract.machine.conftest import Runs

CONTROLLERS = Path("/sys/fs/cgroup/cgroup.controllers")
MEMORY = TreeLimits(memory_bytes=96 << 20)
TASKS = TreeLimits(processes=12)
HALF_A_CORE = TreeLimits(cpu_percent=50)
EATER = "import os, time\nif os.fork(): time.sleep(20)\nkept = [bytearray(16 << 20) for _ in range(30)]\nprint('ate it all')"
FORKER = """
import os, time
children = 0
for _ in range(40):
    try:
        if not os.fork():
            time.sleep(1)
            os._exit(0)
    except OSError:
        break
    children += 1
print(children)
"""
BURNER = "import os, time\nend = time.monotonic() + 2\nwhile time.monotonic() < end: pass\nprint(sum(os.times()[:2]))"


def run_within(runs: Runs, processes: Processes, limits: TreeLimits, *argv: str) -> Ended | None:
    """Run it if its limits are kept here; else check that it is refused, with nothing left behind, and return None."""
    there = set(CONTROLLERS.read_text().split()) if CONTROLLERS.exists() else set()
    launch = runs.launch(*argv, limits=limits)
    if processes.name == "systemd" and controllers_of(limits) <= there:
        return runs.start(launch).wait()
    with pytest.raises(MachineError) as refused:
        runs.start(launch)
    assert refused.value.code == "machine.limit"
    assert not launch.output_path.exists()
    return None


def test_a_tree_that_takes_too_much_memory_is_ended_whole(runs: Runs, processes: Processes) -> None:
    ended = run_within(runs, processes, MEMORY, "/usr/bin/python3", "-c", EATER)
    if ended is not None:
        assert (ended.ended_by, ended.timed_out, b"ate it all" in ended.output_tail) == ("memory", False, False)
        assert ended.duration_s < 15, "the part that took nothing was ended with it"


def test_a_tree_has_no_more_processes_than_it_may(runs: Runs, processes: Processes) -> None:
    ended = run_within(runs, processes, TASKS, "/usr/bin/python3", "-c", FORKER)
    if ended is not None:
        assert 5 < int(ended.output_tail) < 12, "it is one of them itself"


def test_a_tree_gets_no_more_of_the_processor_than_it_may(runs: Runs, processes: Processes) -> None:
    ended = run_within(runs, processes, HALF_A_CORE, "/usr/bin/python3", "-c", BURNER)
    if ended is not None:
        assert float(ended.output_tail) < 1.4


def test_without_limits_nothing_is_asked_of_the_kernel(runs: Runs) -> None:
    assert runs.run("/bin/true", limits=TreeLimits()).exit_code == 0


def test_a_kernel_that_keeps_some_limits_is_asked_for_those(runs: Runs, tmp_path: Path) -> None:
    some = tmp_path / "controllers"
    some.write_text("cpuset memory io\n")
    check_limits(runs.launch("/bin/true", limits=MEMORY), some)
    for limits, missing in ((TASKS, "pids"), (HALF_A_CORE, "cpu"), (TreeLimits(1 << 30, 100, 9), "cpu, pids")):
        with pytest.raises(MachineError, match=missing) as refused:
            check_limits(runs.launch("/bin/true", limits=limits), some)
        assert refused.value.code == "machine.limit"


def test_limits_are_said_to_systemd_in_its_own_units(runs: Runs) -> None:
    launch = runs.launch("/bin/true", limits=TreeLimits(64 << 20, 150, 32))
    settings = dict(unit_settings(launch, Account(0, 0), {}, []))
    assert settings["MemoryMax"] == ("t", 64 << 20)
    assert settings["MemorySwapMax"] == ("t", 0)
    assert settings["CPUQuotaPerSecUSec"] == ("t", 1_500_000)
    assert settings["TasksMax"] == ("t", 32)
    assert (
        not {"MemoryMax", "TasksMax", "CPUQuotaPerSecUSec"}
        & dict(unit_settings(runs.launch("/bin/true"), Account(0, 0), {}, [])).keys()
    )
