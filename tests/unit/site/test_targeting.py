"""Who gets a job, and who does not and why."""

import pytest

from pcm.site.targeting import Candidate, decide, decide_all


def candidate(platform: str = "linux-x86_64", state: str = "enrolled", number: int = 1) -> Candidate:
    return Candidate(number, f"{number:032x}", f"pc-{number}", platform, state)


@pytest.mark.parametrize(
    ("platform", "platforms", "verdict"),
    [
        ("linux-x86_64", ["linux-any"], "included"),
        ("linux-x86_64", ["linux-x86_64"], "included"),
        ("linux-arm64", ["linux-x86_64"], "not_applicable"),
        ("linux-arm64", ["linux-x86_64", "linux-arm64"], "included"),
        ("windows-x86_64", ["linux-any"], "not_applicable"),
        ("odd", ["linux-any"], "not_applicable"),
        ("", ["linux-any"], "not_applicable"),
    ],
)
def test_the_platform_decides(platform: str, platforms: list[str], verdict: str) -> None:
    assert decide(candidate(platform), platforms).verdict == verdict


@pytest.mark.parametrize("state", ["pending", "quarantined", "revoked", "something new"])
def test_only_enrolled_clients_are_told_anything(state: str) -> None:
    decision = decide(candidate(state=state), ["linux-any"])
    assert decision.verdict == "excluded"
    assert decision.reason


def test_q156250_whoever_is_left_out_is_told_why() -> None:
    decision = decide(candidate("windows-arm64"), ["linux-any", "linux-x86_64"])
    assert "windows-arm64" in decision.reason
    assert "linux-any" in decision.reason


def test_nobody_is_lost_or_doubled() -> None:
    everyone = [candidate(number=number, state=state) for number, state in enumerate(["enrolled", "pending"] * 5)]
    assert [decision.candidate for decision in decide_all(everyone, ["linux-any"])] == everyone
