"""When this computer restarts: each rule by itself, and the recorded failures that they keep away."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from pcm.service.restart_rules import (
    BY_ITSELF,
    LEAST_NOTICE,
    MOST_TRIES,
    PAUSES,
    Around,
    Decision,
    Standing,
    Step,
    Terms,
    Wish,
    combine,
    decide,
)
from tests.unit.service_engine.making import NOON

HOUR = timedelta(hours=1)
NOBODY, ALICE = Around(), Around(users=("alice",))


def wish(name: str = "viewer 1.0", policy: Any = "ask", **fields: Any) -> Wish:
    return Wish(**{"name": name, "policy": policy, "asked": NOON, **fields})


def terms_of(*wishes: Wish) -> Terms:
    terms = combine(wishes)
    assert terms is not None
    return terms


def ask(wanted: Wish | tuple[Wish, ...], around: Around = NOBODY, now: datetime = NOON, **said: Any) -> Decision:
    terms = terms_of(*(wanted if isinstance(wanted, tuple) and not isinstance(wanted, Wish) else (wanted,)))
    return decide(terms, Standing(**{"policy": terms.policy, **said}), around, now)


def told(*users: str, due: datetime | None = None, announced: datetime = NOON, **said: Any) -> dict[str, Any]:
    return {"announced": announced, "due": due, "told": frozenset(users), **said}


def test_q153227_nothing_restarts_unless_a_program_asked() -> None:
    assert combine(()) is None
    standing = Standing("force", announced=NOON, due=NOON, requested_by="root")
    assert decide(None, standing, NOBODY, NOON) == Decision(Step.NONE)


@pytest.mark.parametrize("policy", ["ask", "force"])
def test_where_nobody_is_logged_on_it_restarts_at_once(policy: str) -> None:
    made = ask(wish(policy=policy))
    assert (made.step, made.code) == (Step.NOW, "restart.now")
    assert "viewer 1.0 needs a restart" in made.reason


def test_never_leaves_it_to_people_but_not_to_those_who_ask_for_it() -> None:
    assert [ask(wish(policy="never"), around).step for around in (NOBODY, ALICE)] == [Step.WAITING] * 2
    assert ask(wish(policy="never")).code == "restart.never"
    assert ask(wish(policy="never"), requested_by="root").step is Step.NOW


def test_whoever_is_logged_on_is_asked_and_never_forced() -> None:
    made = ask(wish(), ALICE)
    assert (made.step, made.code, made.until, made.tell) == (Step.WAITING, "restart.asked", None, frozenset({"alice"}))
    much_later = ask(wish(max_s=3600, times=3), ALICE, NOON + 100 * HOUR, **told("alice"))
    assert (much_later.step, much_later.tell) == (Step.WAITING, frozenset())
    assert ask(wish(), ALICE, NOON + HOUR, **told("alice", requested_by="alice")).step is Step.NOW


def test_q135584_force_is_announced_counted_down_and_then_it_comes() -> None:
    forced = wish(policy="force", countdown_s=600)
    first = ask(forced, ALICE)
    assert (first.step, first.due, first.tell) == (Step.ANNOUNCED, NOON + timedelta(minutes=10), frozenset({"alice"}))
    said = told("alice", due=first.due)
    assert ask(forced, ALICE, NOON + timedelta(seconds=599), **said).step is Step.ANNOUNCED
    assert ask(forced, ALICE, NOON + timedelta(seconds=600), **said).step is Step.NOW


@pytest.mark.parametrize("countdown", [0, 1, 59])
def test_whoever_is_logged_on_has_a_minute_whatever_the_job_says(countdown: int) -> None:
    assert ask(wish(policy="force", countdown_s=countdown), ALICE).due == NOON + LEAST_NOTICE


def test_whoever_logs_on_during_the_countdown_has_a_minute_too() -> None:
    forced = wish(policy="force", countdown_s=600)
    both = Around(users=("alice", "bob"))
    late = ask(forced, both, NOON + timedelta(seconds=590), **told("alice", due=NOON + timedelta(seconds=600)))
    assert (late.step, late.due, late.tell) == (Step.ANNOUNCED, NOON + timedelta(seconds=650), frozenset({"bob"}))
    early = ask(forced, both, NOON + timedelta(seconds=10), **told("alice", due=NOON + timedelta(seconds=600)))
    assert (early.due, early.tell) == (NOON + timedelta(seconds=600), frozenset({"bob"}))


def test_a_restart_that_becomes_forced_is_announced_anew() -> None:
    both = (wish(), wish("editor 2.1", "force"))
    made = ask(both, ALICE, NOON + HOUR, **told("alice", policy="ask"))
    assert (made.step, made.due) == (Step.ANNOUNCED, NOON + HOUR + LEAST_NOTICE)


def test_it_is_postponed_within_the_budget_and_not_a_second_longer() -> None:
    forced = wish(policy="force", times=2, max_s=3600)
    said = told("alice", due=NOON + LEAST_NOTICE, deferred_until=NOON + 5 * HOUR)
    waiting = ask(forced, ALICE, NOON + HOUR - timedelta(seconds=1), **said)
    assert (waiting.code, waiting.until) == ("restart.postponed", NOON + HOUR)
    assert ask(forced, ALICE, NOON + HOUR, **said).step is Step.NOW
    assert ask(forced, NOBODY, NOON + HOUR / 2, **said).code == "restart.postponed", "her work may go on without her"


def test_a_clock_that_was_set_back_gives_nothing_away() -> None:
    forced = wish(policy="force", times=2, max_s=3600, asked=NOON + 50 * HOUR)
    ahead = told("alice", announced=NOON + 50 * HOUR, due=NOON + 51 * HOUR, deferred_until=NOON + 51 * HOUR)
    assert ask(forced, ALICE, **ahead).until == NOON + HOUR
    assert ask(forced, ALICE, **{**ahead, "deferred_until": None}).due == NOON + LEAST_NOTICE
    tried = ask(forced, tries=1, tried=NOON + 50 * HOUR)
    assert tried.step is Step.NOW
    assert ask(forced._replace(by_itself=True)).step is Step.NOW


def test_one_restart_for_many_by_the_strictest_policy_and_the_smallest_budget() -> None:
    terms = terms_of(
        wish("a 1", "ask", times=5, max_s=7200, countdown_s=30),
        wish("b 1", "force", times=3, max_s=600, countdown_s=300),
        wish("c 1", "never", any_time=True),
    )
    assert (terms.names, terms.policy) == (("a 1", "b 1", "c 1"), "force")
    assert (terms.times, terms.budget, terms.notice) == (3, timedelta(seconds=600), timedelta(seconds=300))
    assert not terms.any_time, "what never restarts opens no window for what does"
    assert terms.who() == "a 1 and b 1 and c 1 need a restart"
    assert terms_of(wish(policy="never", times=1)).times == 1


def test_it_waits_for_what_runs_even_if_somebody_chose_now() -> None:
    busy = Around(at_work=True)
    for made in (ask(wish(policy="force"), busy), ask(wish(policy="force"), busy, requested_by="root")):
        assert (made.step, made.code) == (Step.WAITING, "restart.at_work")


def test_a_pause_holds_what_nobody_here_chooses() -> None:
    paused = Around(held="Root paused this client.", held_until=NOON + HOUR)
    made = ask(wish(policy="force"), paused)
    assert (made.step, made.code, made.until) == (Step.WAITING, "restart.held", NOON + HOUR)
    assert "Root paused" in made.reason
    assert ask(wish(), paused, requested_by="root").step is Step.NOW


def test_it_keeps_to_maintenance_windows_unless_the_job_ignores_them() -> None:
    closed = Around(open=False, next_opening=NOON + 5 * HOUR)
    made = ask(wish(), closed)
    assert (made.step, made.code, made.until) == (Step.WAITING, "restart.window", NOON + 5 * HOUR)
    assert ask(wish(any_time=True), closed).step is Step.NOW
    assert ask(wish(), closed, requested_by="root").step is Step.NOW, "a person needs no window"
    assert ask(wish(), closed._replace(next_opening=None)).until is None


def test_a_forced_one_is_announced_for_the_window_and_comes_when_it_opens() -> None:
    opens = NOON + 5 * HOUR
    closed = Around(users=("alice",), open=False, next_opening=opens)
    forced = wish(policy="force")
    counted = ask(forced, closed, NOON + LEAST_NOTICE, **told("alice", due=NOON + LEAST_NOTICE))
    assert (counted.code, counted.due) == ("restart.window", opens)
    still = ask(forced, closed, NOON + HOUR, **told("alice", due=opens))
    assert (still.step, still.due) == (Step.ANNOUNCED, opens)
    assert ask(forced, ALICE, opens, **told("alice", due=opens)).step is Step.NOW


def test_a_program_that_restarts_by_itself_is_given_time_and_then_helped() -> None:
    itself = wish(by_itself=True)
    made = ask(itself)
    assert (made.step, made.code, made.until) == (Step.WAITING, "restart.by_itself", NOON + BY_ITSELF)
    assert ask((itself, wish("b 1", "force"))).code == "restart.by_itself"
    assert ask(itself, now=NOON + BY_ITSELF).step is Step.NOW
    assert ask(itself, requested_by="alice").step is Step.NOW


def test_q171070_a_restart_that_does_not_come_is_asked_for_again_and_not_for_ever() -> None:
    made = ask(wish(), tries=1, tried=NOON)
    assert (made.code, made.until) == ("restart.retry", NOON + PAUSES[0])
    assert ask(wish(), now=NOON + PAUSES[0], tries=1, tried=NOON).step is Step.NOW
    assert ask(wish(), now=NOON + PAUSES[0], tries=2, tried=NOON).until == NOON + PAUSES[1]
    for tries in (MOST_TRIES, MOST_TRIES + 5):
        over = ask(wish(policy="force"), now=NOON + 1000 * HOUR, tries=tries, tried=NOON)
        assert (over.step, over.code, over.until) == (Step.WAITING, "restart.failed", None)
    assert ask(wish(), tries=MOST_TRIES, tried=NOON, requested_by="root").step is Step.NOW, "a person may try again"


def test_a_restart_that_was_chosen_with_others_here_comes_at_the_time_said() -> None:
    both = Around(users=("alice", "bob"))
    chosen = told("alice", due=NOON + LEAST_NOTICE, requested_by="alice")
    made = ask(wish(policy="force"), both, **chosen)
    assert (made.step, made.until, made.tell) == (Step.ANNOUNCED, NOON + LEAST_NOTICE, frozenset({"bob"}))
    assert ask(wish(policy="force"), both, NOON + LEAST_NOTICE, **chosen).step is Step.NOW
