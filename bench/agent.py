"""The client service: idle poll, verify and plan, overhead per program and its parts, idle memory. See `docs/benchmarks.md`."""

import sys

from bench import beside, parts, poll, resident, runs, verify, wake
from bench.measure import Report


def main() -> int:
    """Measure everything; the exit code tells whether every aim holds."""
    report = Report("agent")
    poll.measure(report)
    verify.measure(report)
    runs.measure(report)
    parts.measure(report)
    resident.measure(report)
    wake.measure(report)
    beside.measure(report)
    report.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
