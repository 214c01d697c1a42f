"""The site server: publishing to clients, idle polls, reports. `docs/benchmarks.md` explains each figure."""

import sys

from bench import publishing, serving
from bench.measure import Report


def main() -> int:
    """Measure and print; the table and the verdicts say what came of it."""
    report = Report("site")
    publishing.measure(report)
    serving.measure(report)
    report.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
