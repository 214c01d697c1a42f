"""For end-to-end tests: hosts that boot."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.base_system import base_system
from tests.e2e.booted_host import BootedHost
from tests.e2e.client_packages import Built, built_packages
from tests.e2e.hosts import Client, Site, served_site


@pytest.fixture(scope="session")
def nspawn_base() -> Path:
    """Folder of the base system of booted hosts, built if need be. Needs `nspawn`."""
    return base_system()


@pytest.fixture(scope="session")
def client_packages(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The client's packages, built once for all test processes. Needs `packages`."""
    base = tmp_path_factory.getbasetemp()
    return built_packages((base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "client-packages")


@pytest.fixture
def boot_host(nspawn_base: Path) -> Iterator[Callable[[], BootedHost]]:
    """Boot as many hosts as a test wants; they are gone after it. Needs `nspawn`."""
    with ExitStack() as hosts:

        def boot() -> BootedHost:
            host = hosts.enter_context(BootedHost(nspawn_base))
            host.boot()
            return host

        yield boot


@pytest.fixture(scope="module")
def hosted(nspawn_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Client]]:
    """A host that is a client of a served site, its service running; one for the tests of a module. Needs `nspawn`."""
    folder = tmp_path_factory.mktemp("lab")
    with BootedHost(nspawn_base) as host, served_site(folder, host.gateway) as site:
        host.boot()
        client = Client(host, site)
        client.enrol()
        client.start()
        yield site, client


@pytest.fixture
def site(hosted: tuple[Site, Client]) -> Site:
    """The site of `hosted`."""
    return hosted[0]


@pytest.fixture
def client(hosted: tuple[Site, Client]) -> Client:
    """The client of `hosted`."""
    return hosted[1]
