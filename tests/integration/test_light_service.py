"""What the client's long-lived process loads: the standard library and nothing else, so that it stays small and hard to break."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pcm.transport.transfer import open_to_all

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {
    "alembic",
    "asyncio",
    "click",
    "cryptography",
    "granian",
    "httpx",
    "msgspec",
    "requests",
    "rich",
    "sqlalchemy",
    "starlette",
    "tuf",
    "yaml",
}


def loaded_by(module: str, *flags: str) -> set[str]:
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); import {module}; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-I", *flags, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return set(answer.stdout.split())


def test_the_supervisor_runs_without_any_installed_library() -> None:
    loaded = loaded_by("pcm.service.supervisor", "-S")  # -S: site-packages cannot be found at all

    assert "pcm.service.supervisor" in loaded
    assert loaded & HEAVY == set()


@pytest.mark.parametrize(
    "package", ["pcm", "pcm.service", "pcm.service.machine", "pcm.trust", "pcm.model", "pcm.protocol"]
)
def test_naming_a_package_loads_nothing(package: str) -> None:
    assert loaded_by(package, "-S") & HEAVY == set()


def test_a_poll_that_brings_nothing_loads_neither_tuf_nor_what_only_news_need() -> None:
    """What a worker imports before its first question: each of these costs 5 to 120 ms."""
    loaded = loaded_by("pcm.service.worker, pcm.service.check, pcm.service.identity, pcm.service.sources")

    assert "msgspec" in loaded
    rare = {
        "cryptography.hazmat.primitives.serialization", "dataclasses", "email.utils", "http.client", "importlib.metadata",
        "inspect", "pcm.service.recovery", "pcm.service.runner", "pcm.trust.envelopes", "ssl", "tuf", "zstandard",
    }  # fmt: skip
    assert loaded & rare == set()


def test_the_transfer_process_begins_without_tls_and_can_load_it() -> None:
    if os.geteuid() != 0 or open_to_all(sys.path):  # else everything is loaded while it still can be
        assert "ssl" not in loaded_by("pcm.transport.start")
    assert "ssl" in loaded_by(
        "pcm.transport.start, pcm.transport.wire; pcm.transport.wire.tls_context(None); import ssl"
    )


def test_nothing_of_smb_is_loaded_where_there_are_no_shares() -> None:
    """Half a poll's time, and twice its memory."""
    service = loaded_by("pcm.service.worker, pcm.service.check, pcm.service.share_client, pcm.transport.client")
    assert not service & {"smbprotocol", "spnego", "pcm.service.account", "pcm.transport.smb", "pcm.transport.kerberos"}
    if os.geteuid() != 0 or open_to_all(sys.path):
        assert not loaded_by("pcm.transport.start") & {"smbprotocol", "spnego", "pcm.transport.smb", "ctypes.util"}
