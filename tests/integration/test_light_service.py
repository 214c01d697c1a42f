"""What the client's long-lived process loads: the standard library and nothing else, so that it stays small and hard to break."""

import subprocess
import sys
from pathlib import Path

import pytest

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
