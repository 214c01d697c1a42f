"""What a shell made the service ignore does not reach the programs that it runs."""

import signal
from collections.abc import Iterator

import pytest

from pcm.service.machine.linux.tree import _stop_ignoring

NUMBERS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)


@pytest.fixture
def ignored() -> Iterator[None]:
    before = {number: signal.signal(number, signal.SIG_IGN) for number in NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("ignored")
def test_ignored_signals_are_handled_by_doing_nothing() -> None:
    _stop_ignoring()
    for number in NUMBERS:
        assert signal.getsignal(number) is not signal.SIG_IGN
        signal.raise_signal(number)  # and we are still here
