"""A site of two folders and one client of it, for every test here."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.service_shell.static_site import Client, StaticSite, shared_folder


@pytest.fixture
def site() -> Iterator[StaticSite]:
    with shared_folder() as folder:
        yield StaticSite(folder)


@pytest.fixture
def client(site: StaticSite, tmp_path: Path) -> Client:
    return Client(site, tmp_path / "client")


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """What the test package's program writes to."""
    return tmp_path / "installed"
