"""The administrator program in the test's own process: its output, and a home of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from pcm.cli.main import run


class Answer(NamedTuple):
    """What one call of `pcm` gave."""

    code: int
    out: str
    err: str


Pcm = Callable[..., Answer]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An administrator without any context."""
    folder = tmp_path / "home"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    for name in ("PCM_SITE", "PCM_TOKEN_FILE", "PCM_KEYS", "PCM_KEY_PASSPHRASE"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def pcm(home: Path, capsys: pytest.CaptureFixture[str]) -> Pcm:
    """Calls the program."""
    assert home

    def call(*arguments: object) -> Answer:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return Answer(code, told.out, told.err)

    return call
