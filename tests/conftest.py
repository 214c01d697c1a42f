"""For all tests: the `needs` marker and what comes of it, Hypothesis profiles, and a private PostgreSQL server."""

import os
import signal
from collections.abc import Iterator

import hypothesis
import pytest

from tests import capabilities
from tests.postgresql_server import PostgresqlServer, running_server

# started in the background (`&`, nohup) we ignore these, and so would every program that a test starts
for _number, _usual in (
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)


# Times differ too much between machines to judge one example by; in CI, the same examples each time.
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") == "true" else "local")

BOOTING_SECONDS = 600  # the first test that boots a host may have to build the base system


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, so that a misspelt one fails."""
    names = ", ".join(capabilities.PROBES)
    config.addinivalue_line("markers", f"needs(*names): what the machine must be able to do: {names}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse unknown needs at once, and give booted hosts their time."""
    for item in items:
        unknown = [need for need in needs_of(item) if need not in capabilities.PROBES]
        if unknown:
            message = f"{item.nodeid}: unknown need {unknown}; known are {', '.join(capabilities.PROBES)}"
            raise pytest.UsageError(message)
        if "nspawn" in needs_of(item) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(BOOTING_SECONDS))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that this machine cannot run, before any fixture is made; fail it where set-up owes the need."""
    reasons = {need: reason for need in needs_of(item) if (reason := capabilities.missing(need)) is not None}
    owed = [reason for need, reason in reasons.items() if capabilities.promised(need)]
    if owed:
        pytest.fail(f"set-up should have provided this in CI: {'; '.join(owed)}", pytrace=False)
    if reasons:
        pytest.skip("; ".join(reasons.values()))


def needs_of(item: pytest.Item) -> list[str]:
    """Every need that the test, its class or its module names, once each."""
    return list(dict.fromkeys(need for marker in item.iter_markers("needs") for need in marker.args))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List every test that did not run, by name and reason."""
    skipped = terminalreporter.stats.get("skipped", [])
    if not skipped:
        return
    terminalreporter.section(f"not run on this machine: {len(skipped)}")
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple | list) else str(report.longrepr)
        terminalreporter.line(f"{report.nodeid}: {reason.removeprefix('Skipped: ')}")


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresqlServer]:
    """A private PostgreSQL server, one for each test process. Needs `postgresql`."""
    with running_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgresql_url(postgresql_server: PostgresqlServer) -> str:
    """SQLAlchemy URL of one database that all tests of this process share: whoever uses it cleans it. Needs `postgresql`."""
    return postgresql_server.create_database()


@pytest.fixture
def postgresql_database(postgresql_server: PostgresqlServer) -> Iterator[str]:
    """SQLAlchemy URL of a new empty database for one test. Needs `postgresql`."""
    url = postgresql_server.create_database()
    yield url
    postgresql_server.drop_database(url)
