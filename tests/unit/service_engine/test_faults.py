"""Fault points: only for tests' own services, and none that does not exist."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pcm.model.errors import RequestError
from pcm.service import faults, returning, runner

SOURCE = Path(faults.__file__).parent


@pytest.fixture(autouse=True)
def _disarm_afterwards() -> Iterator[None]:
    yield
    faults.arm({}, home_given=True)


def test_an_installed_service_never_dies_of_its_environment() -> None:
    faults.arm({"PCM_FAULT": "run.started"}, home_given=False)
    faults.reach("run.started")


def test_other_points_are_passed() -> None:
    faults.arm({"PCM_FAULT": "run.started"}, home_given=True)
    for point in faults.POINTS:
        if point != "run.started":
            faults.reach(point)


def test_a_point_that_does_not_exist_is_a_mistake() -> None:
    with pytest.raises(RequestError) as caught:
        faults.arm({"PCM_FAULT": "run.startd"}, home_given=True)
    assert caught.value.code == "request.fault"


def test_every_point_stands_in_the_code_and_every_point_in_the_code_in_the_list() -> None:
    sources = [path.read_text() for path in SOURCE.rglob("*.py") if path.name != "faults.py"]
    calls = [call for text in sources for call in re.findall(r"faults\.reach\((.*)\)", text)]
    reached = {name for call in calls for name in re.findall(r'(?<!f)"([^"]+)"', call)}
    reached |= {f"return.{name}" for call in calls for name in re.findall(r'work\.point\("([^"]+)"\)', call)}
    steps = {f"{step.name}.{phase}" for step in runner.STEPS for phase in ("begin", "end")}
    # its health is looked at inside the same step, where no program returns from a return
    of_return = {f"return.{step.name}.{phase}" for step in returning.STEPS for phase in ("begin", "end")}
    unreached = {"return.health.begin", "return.health.end"}
    assert reached | steps | of_return - unreached == set(faults.POINTS)
    assert len(faults.POINTS) == len(set(faults.POINTS))
