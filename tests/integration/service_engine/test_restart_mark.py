"""The system's own mark that it needs a restart, left by a program's run or long before it."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pcm.model.assignment import State as Stage
from pcm.model.detection import FileDetection
from pcm.model.program import Program
from pcm.service import recovery
from pcm.service.machine.linux import power
from tests.integration.service_engine.trivial import Client, Rebooted

MARKS = b'#!/bin/sh\ntouch "$1/installed"\n[ -z "$2" ] || touch "$1/$2"\n'


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(power, "MARKERS", (tmp_path / "home" / "reboot-required",))
    return tmp_path / "home"


@pytest.fixture
def client(home: Path) -> Iterator[Client]:
    done = FileDetection(path=str(home / "installed"))
    programs = {
        "install": Program(argv=("setup", str(home), "reboot-required"), detect=done, timeout_s=20),
        "plain": Program(argv=("setup", str(home)), detect=done, timeout_s=20),
        "fails": Program(argv=("/bin/sh", "-c", f"touch {home}/reboot-required; exit 3"), timeout_s=20),
    }
    made = Client(home, programs, machine=Rebooted("first"), setup=MARKS)
    yield made
    made.close()


def state_of(client: Client) -> Stage:
    [record] = client.context.journal.records()
    return record.state


def test_a_mark_that_a_forced_jobs_program_caused_is_a_wish_for_a_restart(client: Client) -> None:
    client.check(client.instruction(restart_policy="force"))
    assert state_of(client) is Stage.RESTART_PENDING
    assert isinstance(client.machine, Rebooted)
    client.machine.boot = "second"
    recovery.reconcile(client.context)
    assert (state_of(client), client.state.rows("SELECT count(*) FROM ledger")) == (Stage.SUCCEEDED, [(1,)])


@pytest.mark.parametrize("policy", ["never", "ask"])
def test_where_nobody_forces_it_only_the_programs_own_word_counts(client: Client, policy: str) -> None:
    client.check(client.instruction(restart_policy=policy))
    assert state_of(client) is Stage.SUCCEEDED


def test_q153227_a_mark_that_was_there_before_is_nobodys_wish(client: Client) -> None:
    mark = client.home / "reboot-required"
    mark.touch()
    before = time.time() - 60
    os.utime(mark, (before, before))
    client.check(client.instruction(restart_policy="force", program="plain"))
    assert state_of(client) is Stage.SUCCEEDED


def test_a_program_that_failed_causes_no_restart(client: Client) -> None:
    client.check(client.instruction(restart_policy="force", program="fails"))
    assert state_of(client) is Stage.FAILED
