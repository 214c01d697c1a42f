"""Runs the parts that a make target names, in order; says so plainly where a part is not built yet.

Arguments: paths of programs relative to the project, then `--`, then the arguments that each of them gets.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Run every part that exists; stops at the first failure and returns its exit code."""
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    names, arguments = sys.argv[1:end], sys.argv[end + 1 :]
    parts = [name for name in names if (ROOT / name).exists()]
    if not parts:
        print(f"{' '.join(names)}: not built yet.")
    for part in parts:
        # as a module, so that parts can import their neighbours
        module = part.removesuffix(".py").replace("/", ".")
        status = subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, check=False).returncode
        if status != 0:
            # Killed by a signal: shells expect 128 + its number.
            return status if status > 0 else 128 - status
    return 0


if __name__ == "__main__":
    sys.exit(main())
