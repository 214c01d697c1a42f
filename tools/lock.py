"""Writes `requirements.lock`: exact versions and hashes of everything that pyproject.toml asks for, for every platform.

`make lock` runs it after a change of dependencies; `make lock ARGS=--upgrade` also takes newer versions. The resolver (uv) is
fetched into build/ for this alone: using the lock needs nothing but the vendored pip. The file names no index and no host, so
that it works with any mirror; the hashes are what counts.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from tools.bootstrap import LOCK, ROOT, run_pip

UV_HOME = ROOT / "build" / "uv"
NOTE = """\
# Exact versions and hashes of all dependencies, for every platform. Made by `make lock`; do not edit.
"""


def main() -> int:
    """Resolve, then hold the result against the rules above."""
    if not (UV_HOME / "uv").is_dir():
        run_pip(Path(sys.executable), ["--target", str(UV_HOME), "uv"])
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"]
    command += ["--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"]
    command += ["--all-extras", "--output-file", str(LOCK), *sys.argv[1:], "pyproject.toml"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(UV_HOME)}, check=True)
    text = LOCK.read_text()
    if re.search(r"://|^--(index|extra|find)", text, re.MULTILINE):
        print("lock: the file names an index or an address; it must work with any mirror", file=sys.stderr)
        return 1
    LOCK.write_text(NOTE + text.removeprefix(NOTE))
    print(f"lock: {len(re.findall(r'^[a-z0-9].*==', text, re.MULTILINE))} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
