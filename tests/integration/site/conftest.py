"""One served site for all tests of a module that do not disturb each other."""

from collections.abc import Iterator

import pytest

from tests.integration.site.served import Served, serve_small_site


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve_small_site(tmp_path_factory.mktemp("served"), approvers=("ann", "bob")) as site:
        yield site
