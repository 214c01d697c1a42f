"""A user whose program ran goes on without end: writing into its output, adding to its folder. The service does not wait for it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pcm.model.errors import MachineError
from pcm.service.machine.posix import removal
from pcm.service.machine.posix.output import ProgramOutput

_DIG = "import os, sys\nos.chdir(sys.argv[1])\nwhile True:\n    os.mkdir('d')\n    os.chdir('d')"


@contextmanager
def busy(code: str, *arguments: str) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


class Flooded(ProgramOutput):
    """Output whose pipe was handed to a process outside the program's tree, which fills it faster than anybody reads."""

    drains = 0

    def drain(self) -> bool:
        """There is always more."""
        self.drains += 1
        assert self.drains < 1000, "it reads for ever"
        os.write(self._flood, b"x" * 65536)
        return super().drain() or True

    def flood_by(self, descriptor: int) -> None:
        """Keep a copy of the program's end."""
        self._flood = descriptor


def test_a_flood_after_the_end_is_cut_off(tmp_path: Path) -> None:
    output = Flooded.create(tmp_path / "run" / "output", 1000)
    theirs = os.dup(output.program_end)
    try:
        output.flood_by(theirs)
        output.close_program_end()
        tail = output.finish()
    finally:
        os.close(theirs)
    assert set(tail) == set(b"x")
    assert (tmp_path / "run" / "output").stat().st_size < 100_000


@pytest.mark.timeout(60)
def test_a_tree_that_grows_while_it_is_removed_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "PATIENCE_S", 0.0)
    (tmp_path / "tree" / "more").mkdir(parents=True)
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with busy(_DIG, str(tmp_path / "tree" / "more")), pytest.raises(MachineError) as given_up:
            removal.remove_tree(folder, "tree")
        assert given_up.value.code == "machine.remove"
        monkeypatch.undo()
        removal.remove_tree(folder, "tree")
    finally:
        os.close(folder)
    assert list(tmp_path.iterdir()) == []
