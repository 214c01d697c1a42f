"""What only offline keys can renew is told 60 days ahead, and what the site renews by itself is not."""

from datetime import UTC, datetime, timedelta

import pytest

from pcm.cli.status import warn_of
from pcm.protocol.admin import ExpiringRole, RoleView, expiring

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def role(name: str, days: float) -> RoleView:
    return RoleView(name, (), 1, 1, NOW + timedelta(days=days))


@pytest.mark.parametrize(("days", "told"), [(-1, True), (0, True), (59.9, True), (60, False), (300, False)])
def test_sixty_days_ahead(days: float, told: bool) -> None:
    found = expiring("packages", [role("root", days)], NOW)
    assert [each.role for each in found] == (["root"] if told else [])


def test_what_the_site_signs_by_itself_and_what_nobody_signed_yet_is_left_out() -> None:
    unsigned = RoleView("targets", (), 1)
    roles = [role("snapshot", 1), role("timestamp", 1), role("main", 1), unsigned]
    assert [each.role for each in expiring("packages", roles, NOW)] == ["main"]


def test_each_warning_names_its_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    soon, past = datetime.now(UTC) + timedelta(days=3, hours=1), datetime.now(UTC) - timedelta(days=1)
    warn_of(
        [
            ExpiringRole("instructions", "root", soon),
            ExpiringRole("packages", "targets", past),
            ExpiringRole("packages", "main", soon),
        ]
    )
    root, targets, team = capsys.readouterr().out.splitlines()
    assert "root of instructions runs out in 3 days" in root
    assert "pcm key renew root --in" in root
    assert "has run out" in targets
    assert "pcm key renew targets" in targets
    assert "list of team main" in team
    assert "pcm package refresh --team main" in team
