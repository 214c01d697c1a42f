"""Fleets that fetch among each other: twelve computers behind one slow line, each with the real service."""

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.network.branch import Branch

pytestmark = [pytest.mark.needs("network", "nginx")]

MB = 1000 * 1000


def tell(text: str) -> None:
    """Figures, for `pytest -s`."""
    sys.stdout.write(f"\n{text}\n")


@pytest.fixture
def branch(tmp_path: Path) -> Iterator[Branch]:
    with ExitStack() as stack:
        yield Branch(stack, tmp_path, "100mbit")


@pytest.mark.timeout(400)
def test_a_fleet_of_twelve_takes_a_package_through_the_line_about_once(branch: Branch) -> None:
    lengths = [64 * MB, *[8 * MB] * 12, *[2 * MB] * 16, *[100_000] * 80]
    manifest = branch.package(lengths)
    size = manifest.content_bytes()
    for _ in range(12):
        branch.client()
    branch.order(None)
    for number in range(12):
        branch.start(number)
    time.sleep(8)
    before = branch.through_the_line()
    branch.order(manifest)
    took = branch.wait_until(lambda: branch.installed() == 12, 300)
    came = branch.through_the_line() - before
    tell(f"{size / MB:.1f} MB for 12 clients: {came / MB:.1f} MB through the line ({came / size:.2f}x), {took:.0f} s")
    assert all(branch.holds(client, manifest) for client in branch.clients)
    assert came <= 1.3 * size


@pytest.mark.timeout(400)
def test_one_that_is_killed_in_the_middle_costs_what_it_was_bringing(branch: Branch) -> None:
    manifest = branch.package([8 * MB] * 25)
    size = manifest.content_bytes()
    for _ in range(12):
        branch.client()
    branch.order(None)
    for number in range(12):
        branch.start(number)
    time.sleep(8)
    before = branch.through_the_line()
    branch.order(manifest)
    branch.wait_until(lambda: branch.through_the_line() - before > 60 * MB, 100)
    branch.kill(3)
    took = branch.wait_until(lambda: branch.installed() == 11, 300)
    came = branch.through_the_line() - before
    tell(
        f"one of 12 killed: {came / MB:.1f} MB through the line for {size / MB:.1f} MB ({came / size:.2f}x), {took:.0f} s"
    )
    living = [client for number, client in enumerate(branch.clients) if number != 3]
    assert all(branch.holds(client, manifest) for client in living)
    assert came <= 1.3 * size


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("manners", "code"),
    [
        ("wrong", "trust.content"),
        ("endless", "trust.endless_data"),
        ("slow", "transfer.too_slow"),
        ("redirect", "transfer.redirected"),
        ("nonsense", "transfer.protocol"),
    ],
)
def test_a_bad_peer_is_dropped_and_named_and_costs_a_retry(branch: Branch, manners: str, code: str) -> None:
    manifest = branch.package([2 * MB] * 20)
    for _ in range(3):
        branch.client()
    branch.lie(0, manners, manifest)
    branch.order(None)
    for number in range(3):
        branch.start(number)
    time.sleep(4)
    branch.order(manifest)
    branch.wait_until(lambda: branch.installed() == 3, 90)
    assert all(branch.holds(client, manifest) for client in branch.clients)
    for client in branch.clients[1:]:
        named = branch.refusals(client)
        assert [source for its, source in named if its == code] == [f"peer {branch.computers[0].address}:8441"], named
        assert len(named) == 1  # once: it was asked nothing more


def test_without_the_policy_nobody_serves_and_nobody_asks(branch: Branch) -> None:
    manifest = branch.package([2 * MB] * 4)
    for _ in range(2):
        branch.client()
    branch.order(None, peers=False)
    for number in range(2):
        branch.start(number)
    time.sleep(3)
    branch.order(manifest, peers=False)
    branch.wait_until(lambda: branch.installed() == 2, 60)
    assert not any((client.places.runtime / "peers").exists() for client in branch.clients)
    assert all(":8441" not in computer.run("ss", "-ltn") for computer in branch.computers)
    assert "GET peers" not in (branch.folder / "logon.log").read_text()


def test_the_server_ends_when_the_policy_does(branch: Branch) -> None:
    manifest = branch.package([2 * MB] * 2)
    branch.client()
    branch.order(manifest)
    branch.start(0)
    branch.wait_until(lambda: branch.installed() == 1, 60)
    branch.wait_until(lambda: ":8441" in branch.computers[0].run("ss", "-ltn"), 10)
    time.sleep(3)  # the check ends, and waits at the server for news
    branch.order(manifest, peers=False)
    branch.wait_until(lambda: ":8441" not in branch.computers[0].run("ss", "-ltn"), 30)
