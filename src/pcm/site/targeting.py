"""Which clients a job is for: the rules of simple groups, and why a client is left out.

Serves step 4: between `site.jobs` (the order) and `site.compile` (the files). Pure: rows in, decisions out; no I/O,
no clock. A group is `all` (every enrolled client, and those that enrol later) or `names` (the clients that it
lists).
"""

from collections.abc import Collection, Iterable
from typing import NamedTuple

from pcm.model.names import platform_fits


class Candidate(NamedTuple):
    """What the rules look at. `id`: the dense one."""

    id: int
    client_id: str
    host_name: str
    platform: str
    state: str


class Decision(NamedTuple):
    """One client's fate in a job: included, or not applicable (it is told so), or excluded (it gets no assignment)."""

    candidate: Candidate
    verdict: str  # included, not_applicable, excluded
    reason: str = ""


_STATES = {
    "pending": "it waits for approval",
    "quarantined": "it is quarantined",
    "revoked": "it was revoked",
}


def decide(candidate: Candidate, platforms: Collection[str]) -> Decision:
    """Say whether a member of the group gets the job (KB Q156250: who does not is told why)."""
    if candidate.state != "enrolled":
        return Decision(candidate, "excluded", _STATES.get(candidate.state, "it is not enrolled"))
    if not any(platform_fits(platform, candidate.platform) for platform in platforms):
        return Decision(
            candidate, "not_applicable", f"the package is for {', '.join(sorted(platforms))}, not {candidate.platform}"
        )
    return Decision(candidate, "included")


def decide_all(candidates: Iterable[Candidate], platforms: Collection[str]) -> list[Decision]:
    """Decide about each member, in the order given."""
    return [decide(candidate, platforms) for candidate in candidates]
