"""What is remembered of servers, and the order in which they are tried, each choice with its reason.

Serves steps 6, 8 and 12: `service` keeps `Health` values in its state and asks `order` before each transfer; `failover`
walks down the list. Pure: time and chance are given. The documented order is the real one (KB Q165508, Q153288), and the
decision trace (`pcmsvc why`) shows it:

    1. preferred servers, in the order in which they are named
    2. servers on this computer's own subnet
    3. servers that were measured, those first that would bring some megabytes soonest
    4. servers not known yet, shuffled
    5. servers that failed lately, the soonest due first: a last resort
    6. servers that refused this client's key, or its account the files, only when their (slow) retry is due (KB Q230242)
"""

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

FIRST_PAUSE_S = 30.0
LONGEST_PAUSE_S = 3600.0
REFUSED_PAUSE_S = 4 * 3600.0
USUAL_BYTES, USUAL_RATE = 8 * 1024 * 1024, 10e6  # what a server is compared by, and the rate of one never measured
_SPREAD = 1.25
_MEMORY = 0.7  # weight of what was known before in a moving average


class Health(NamedTuple):
    """What is remembered of one server. `due`: aware, when a failed or refused server may be asked in its turn again.

    Attributes:
        latency_s: Seconds to the first byte, moving average; None: never measured.
        rate: Bytes a second of large transfers, moving average; None: never measured.
        failures: In a row.
        refused: The last failure was a refusal of this client's key.
        code: Of the last failure, or empty.
    """

    latency_s: float | None = None
    rate: float | None = None
    failures: int = 0
    refused: bool = False
    code: str = ""
    due: datetime | None = None


class Choice(NamedTuple):
    """One server in the order. `usable`: may be asked now; `reason` is for people."""

    server: str
    usable: bool
    reason: str


def order(
    servers: Sequence[str],
    preferred: Iterable[str],
    health: Mapping[str, Health],
    now: datetime,
    chance: random.Random,
    near: Collection[str] = (),
) -> list[Choice]:
    """Put servers into the order in which to try them.

    Args:
        servers: All addresses; doubles count once. KB Q199994: a server that is not named here is never chosen,
            whatever is remembered of it.
        preferred: Those of them to try first, in this order; others are left out.
        health: What is remembered; servers without an entry are unknown.
        now: Aware.
        chance: Shuffles the unknown ones, so that clients spread over servers.
        near: Those of them that are on this computer's own subnet.

    Returns:
        Every server once, unusable ones (refused, not due) last.
    """
    names = list(dict.fromkeys(servers))
    first = [name for name in dict.fromkeys(preferred) if name in names]
    known = {name: health.get(name, Health()) for name in names}
    waiting = [name for name in names if _waits(known[name], now)]
    refused = [name for name in waiting if known[name].refused]
    failed = [name for name in waiting if not known[name].refused]
    ready = [name for name in names if name not in waiting]
    measured = [name for name in ready if known[name].latency_s is not None and name not in first]
    unknown = [name for name in ready if known[name].latency_s is None and name not in first]
    measured.sort(key=lambda name: (name not in near, _expected_s(known[name])))
    chance.shuffle(unknown)
    neighbours = [name for name in (*measured, *unknown) if name in near]
    for last in (failed, refused):
        last.sort(key=lambda name: known[name].due or now)
    return [
        *(Choice(name, True, f"preferred, number {first.index(name) + 1}") for name in first if name in ready),
        *(Choice(name, True, f"on this subnet, {_measured(known[name])}") for name in neighbours),
        *(Choice(name, True, _measured(known[name])) for name in measured if name not in near),
        *(Choice(name, True, "not measured yet, in random order") for name in unknown if name not in near),
        *(Choice(name, True, f"last resort: {_failure(name, known[name])}") for name in failed),
        *(Choice(name, False, f"not asked: {_failure(name, known[name])}") for name in refused),
    ]


def _expected_s(health: Health) -> float:
    """Seconds that a usual amount would take from a measured server."""
    return (health.latency_s or 0.0) + USUAL_BYTES / (health.rate or USUAL_RATE)


def _measured(health: Health) -> str:
    if health.latency_s is None:
        return "not measured yet"
    rate = f", {health.rate / 1e6:.1f} MB/s" if health.rate else ""
    return f"answers in {health.latency_s * 1000:.0f} ms{rate}"


def _waits(health: Health, now: datetime) -> bool:
    """Whether it rests. Nobody rests longer than the longest pause: a later time is one that a wrong clock has written."""
    return health.due is not None and now < health.due <= now + timedelta(seconds=REFUSED_PAUSE_S * _SPREAD)


def _failure(server: str, health: Health) -> str:
    times = "once" if health.failures == 1 else f"{health.failures} times in a row"
    until = f", rests until {health.due:%Y-%m-%dT%H:%M:%SZ}" if health.due else ""
    whom = "the account that reads it" if server.startswith("smb:") else "this client's key"
    what = f"refused {whom}" if health.refused else f"failed {times} ({health.code})"
    return what + until


def record_success(
    health: Health, *, latency_s: float | None = None, transferred: tuple[int, float] | None = None
) -> Health:
    """What is remembered after a server answered.

    Args:
        latency_s: Seconds from asking to the head of the answer.
        transferred: (bytes, seconds) of a body; small ones (under 64 KiB) say nothing about the rate.
    """
    rate = health.rate
    if transferred is not None and transferred[0] >= 64 * 1024 and transferred[1] > 0:
        rate = _average(health.rate, transferred[0] / transferred[1])
    latency = health.latency_s if latency_s is None else _average(health.latency_s, latency_s)
    return Health(latency_s=latency, rate=rate)


def record_failure(health: Health, code: str, now: datetime, chance: random.Random) -> Health:
    """What is remembered after a failure: the pause doubles, with jitter, up to an hour; four hours after a refusal."""
    failures = health.failures + 1
    refused = code == "transfer.refused"
    pause = REFUSED_PAUSE_S if refused else min(FIRST_PAUSE_S * 2 ** min(failures - 1, 20), LONGEST_PAUSE_S)
    due = now + timedelta(seconds=pause * chance.uniform(2 - _SPREAD, _SPREAD))
    return health._replace(failures=failures, refused=refused, code=code, due=due)


def _average(before: float | None, measured: float) -> float:
    return measured if before is None else _MEMORY * before + (1 - _MEMORY) * measured
