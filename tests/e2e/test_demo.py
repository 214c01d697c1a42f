"""The demonstration itself: every claim that it makes is checked by it, so its exit code is the test."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.needs("root", "overlayfs", "apt")
def test_the_demonstration_keeps_its_claims_and_leaves_the_machine_as_it_was() -> None:
    before = {
        path: path.exists() for path in map(Path, ("/usr/bin/hello", "/usr/bin/tree", "/etc/pcm", "/var/lib/pcm"))
    }
    played = subprocess.run(
        [sys.executable, "-m", "demo.run"],
        cwd=ROOT,
        env={**os.environ, "TERM": "dumb"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert played.returncode == 0, played.stdout[-4000:] + played.stderr
    for code in ("trust.wrong_recipient", "trust.mix_and_match", "trust.content", "trust.rollback"):
        assert f"refused: {code}" in played.stdout
        assert f"pcm client show names {code}" in played.stdout
    assert "✘" not in played.stdout
    assert {path: path.exists() for path in before} == before
