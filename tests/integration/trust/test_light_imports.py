"""What an idle poll needs does not load tuf: loading it costs 0.1 s and 15 MB on every client, all day."""

import subprocess
import sys

import pytest

IDLE = ["codes", "clock", "floors", "envelopes", "approvals", "fetching", "manifests", "cross_check"]


@pytest.mark.parametrize("module", IDLE)
def test_idle_modules_do_not_load_tuf(module: str) -> None:
    code = f"import sys, pcm.trust.{module}; print(sorted({{n.split('.')[0] for n in sys.modules}} & {{'tuf', 'securesystemslib'}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_reading_repositories_loads_no_web_client() -> None:
    code = (
        "import sys, pcm.trust.instructions, pcm.trust.packages, pcm.trust.cross_check;"
        "print(sorted({n.split('.')[0] for n in sys.modules} & {'requests', 'httpx', 'asyncio', 'sqlalchemy'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
