"""`pcm client installer` refuses what makes no setup, before it asks the site for anything."""

from pathlib import Path

import pytest

from tests.unit.cli.conftest import Pcm
from tests.unit.cli.test_setup_file import make


def test_without_a_base_it_says_which_option_is_missing(pcm: Pcm, tmp_path: Path) -> None:
    answer = pcm("client", "installer", "--out", str(tmp_path / "x.run"))
    assert answer.code == 2
    assert "--base" in answer.err
    assert "PCM_CLIENT_SETUP" in pcm("client", "installer", "--help").out


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read"),
        (b"", "is no setup of the client"),
        (b"#!/bin/sh\necho hello\n", "is no setup of the client"),
        (make()[:-1], "is damaged"),
        (make() + b"\n", "is damaged"),
    ],
)
def test_what_is_no_setup_is_refused(pcm: Pcm, tmp_path: Path, content: bytes | None, told: str) -> None:
    base, out = tmp_path / "base.run", tmp_path / "out.run"
    if content is not None:
        base.write_bytes(content)
    answer = pcm("client", "installer", "--base", str(base), "--out", str(out))
    assert answer.code == 1
    assert told in answer.err
    assert not out.exists()


def test_a_host_name_binds_a_token_and_so_needs_one(pcm: Pcm, tmp_path: Path) -> None:
    answer = pcm("client", "installer", "--base", "x", "--out", str(tmp_path / "x.run"), "--host", "ws-17")
    assert answer.code == 2
    assert "--host binds a token, so it needs --token" in answer.err
