"""A newer version on trial, on a computer in a folder: who watches, who decides, and what is left after a cut at any point."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec import structs

from pcm.model.errors import MachineError, RequestError
from pcm.service.facts import AGENT_VERSION
from pcm.service.installation import layout as layouts
from pcm.service.installation.again import MOST_TRIES, MOST_UNTOLD_S
from pcm.service.installation.install import Wish, install
from pcm.service.installation.layout import current_version, present_versions
from pcm.service.installation.measures import MARK, Host
from pcm.service.installation.remove import remove
from pcm.service.installation.trials import PATIENCE_S, WATCHER, begin, go_back
from pcm.service.installation.watch import LOOK_S, MOST_RESTARTS, Seen, Verdict, decide, patience_left, watch
from pcm.service.places import Places, find_places
from pcm.service.state import State
from pcm.service.trial import (
    RETURNED,
    Confirmed,
    Returns,
    Trial,
    ask_in_full,
    confirm,
    is_confirmed,
    own_trial,
    read_record,
    show_update,
    tell_returns,
    write_record,
)
from tests.unit.installation.making import RememberedComputer, make_host, make_tree
from tests.unit.installation.test_install import NOON, clock, come_from, enrol, quiet

WATCHING = {WATCHER.replace("*", ".11"): b"watch\n"}


class Days:
    """Time that passes when somebody pauses. `then`: what happens at which second."""

    def __init__(self, then: dict[float, Callable[[], object]] | None = None) -> None:
        self.seconds = 0.0
        self._then = dict(then or {})

    def steady(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.seconds)

    def pause(self, seconds: float) -> None:
        self.seconds += seconds
        for at in [at for at in self._then if at <= self.seconds]:
            self._then.pop(at)()


def look_after(host: Host, days: Days) -> list[str]:
    said: list[str] = []
    watch(host, days.now, days.steady, days.pause, said.append)
    return said


@pytest.fixture
def computer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Host, RememberedComputer]:
    """Version 1.0 is installed, enrolled, and has reached its site; 1.1 lies unpacked and is asked to install itself."""
    host, remembered = make_host(tmp_path / "root")
    monkeypatch.setattr("pcm.service.places._own_program", tuple)
    make_tree(tmp_path / "unpacked", "1.0", WATCHING)
    come_from(monkeypatch, tmp_path / "unpacked")
    enrol(host)
    install(host, Wish(), clock, quiet)
    (host.places.state / "last-contact").touch()
    make_tree(tmp_path / "newer", "1.1", WATCHING)
    come_from(monkeypatch, tmp_path / "newer")
    remembered.calls.clear()
    return host, remembered


def trial_of(host: Host) -> Trial:
    trial = read_record(Trial, host.layout.trial)
    assert trial is not None
    return trial


def reach(host: Host) -> None:
    """A server answers: another contact than any before."""
    path = host.places.state / "last-contact"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def confirm_here(host: Host) -> None:
    confirm(trial_of(host), host.places, "http://a/logon", NOON)


def test_q168463_somebody_watches_from_the_version_before_ere_anything_is_switched(
    computer: tuple[Host, RememberedComputer], monkeypatch: pytest.MonkeyPatch
) -> None:
    host, remembered = computer
    at_switch: list[object] = []
    real = layouts.switch

    def switch(layout: layouts.Layout, version: str) -> None:
        at_switch.extend([read_record(Trial, layout.trial), remembered.watch_enabled, remembered.watching])
        real(layout, version)

    monkeypatch.setattr("pcm.service.installation.install.switch", switch)
    done = install(host, Wish(), clock, quiet).done
    trial = trial_of(host)
    assert at_switch == [trial, True, True]
    assert (trial.old, trial.new, trial.until - trial.begun) == ("1.0", "1.1", timedelta(minutes=15))
    assert "version 1.1 is on trial: 1.0 comes back unless it reaches the site within 15 min" in done
    unit = host.layout.watch_unit.read_text()
    assert unit.startswith(MARK)
    assert "\nExecStart=/opt/pcm/versions/1.0/bin/pcmsvc watch-update\n" in unit
    assert (current_version(host.layout), present_versions(host.layout)) == ("1.1", ["1.0", "1.1"])
    assert remembered.calls[-1] == "restart"


def test_a_version_that_confirms_stays_and_nobody_watches_any_more(
    computer: tuple[Host, RememberedComputer],
) -> None:
    host, remembered = computer
    install(host, Wish(), clock, quiet)
    days = Days({100: lambda: confirm_here(host)})
    said = look_after(host, days)
    assert said[-1] == "the trial is over: version 1.1 works"
    assert 100 <= days.seconds <= 100 + 2 * LOOK_S
    assert current_version(host.layout) == "1.1"
    assert not remembered.watch_enabled
    assert not host.layout.watch_unit.exists()
    assert not host.layout.trial.exists()
    assert not host.layout.returns.exists()


def test_q168463_a_version_that_does_not_reach_the_site_goes_and_does_not_come_again_by_itself(
    computer: tuple[Host, RememberedComputer],
) -> None:
    host, remembered = computer
    install(host, Wish(), clock, quiet)
    remembered.calls.clear()
    days = Days({PATIENCE_S + 60: lambda: reach(host)})  # the version before, at once
    said = look_after(host, days)
    assert "version 1.0 is in use again instead of 1.1: It did not reach the site" in said[-1]
    assert PATIENCE_S + 60 <= days.seconds <= PATIENCE_S + 60 + 2 * LOOK_S
    assert current_version(host.layout) == "1.0"
    assert host.layout.own_unit.read_text() == f"{MARK}: 1.0\n"  # its definition too
    assert "restart" in remembered.calls
    assert (remembered.watch_enabled, host.layout.trial.exists()) == (False, False)
    with pytest.raises(RequestError) as refused:
        install(host, Wish(), clock, quiet)
    assert refused.value.code == "installation.returned"
    told: list[str] = []
    assert install(host, Wish(keep_newer=True), clock, told.append).done == []
    assert "did not work" in told[0]
    host.layout.own_unit.write_text(f"{MARK}: 1.1, as a package brings it\n")
    assert len(install(host, Wish(keep_newer=True), clock, quiet).done) == 1
    assert host.layout.own_unit.read_text() == f"{MARK}: 1.0\n"
    assert current_version(host.layout) == "1.0"

    install(host, Wish(again=True), clock, quiet)
    assert (current_version(host.layout), trial_of(host).old) == ("1.1", "1.0")
    known = read_record(Returns, host.layout.returns)
    assert known is not None
    assert (known.bad, [each.new for each in known.returns]) == ((), ["1.1"])


def test_a_service_that_does_not_stay_up_is_not_waited_for(computer: tuple[Host, RememberedComputer]) -> None:
    host, remembered = computer
    install(host, Wish(), clock, quiet)

    def fail() -> None:
        remembered.restarts = MOST_RESTARTS

    days = Days({10: fail})
    said = look_after(host, days)
    assert "Its service does not stay up" in said[-1]
    assert days.seconds <= 10 + 2 * LOOK_S
    assert (current_version(host.layout), remembered.restarts) == ("1.0", 0)


def test_failures_from_before_a_trial_are_not_its_own(computer: tuple[Host, RememberedComputer]) -> None:
    host, remembered = computer
    install(host, Wish(), clock, quiet)
    remembered.restarts = 40

    def count(number: int) -> Callable[[], object]:
        return lambda: setattr(remembered, "restarts", number)

    steps: dict[float, Callable[[], object]] = {
        10: count(40 + MOST_RESTARTS - 1),
        20: count(0),
        30: count(MOST_RESTARTS - 1),
    }
    look_after(host, Days({**steps, 60: lambda: confirm_here(host)}))
    assert current_version(host.layout) == "1.1"


def test_time_in_which_a_worker_of_the_version_before_still_runs_a_program_does_not_count(
    computer: tuple[Host, RememberedComputer],
) -> None:
    host, remembered = computer
    install(host, Wish(), clock, quiet)
    remembered.old_worker_in = host.layout.version("1.0")

    def ended() -> None:
        remembered.old_worker_in = None

    days = Days({5000: ended, 5100: lambda: confirm_here(host)})
    look_after(host, days)
    assert current_version(host.layout) == "1.1"


@pytest.mark.parametrize("cut", ["enable watch", "start watch", "reload"])
def test_cut_before_the_switch_the_version_before_goes_on(computer: tuple[Host, RememberedComputer], cut: str) -> None:
    host, remembered = computer
    remembered.refuse.add(cut)
    with pytest.raises(MachineError):
        install(host, Wish(), clock, quiet)
    assert current_version(host.layout) == "1.0"
    remembered.refuse.clear()
    said = look_after(host, Days())  # as after the next boot
    assert said[-1] == "the trial is over: version 1.1 did not come into use"
    assert (current_version(host.layout), host.layout.trial.exists()) == ("1.0", False)
    assert not host.layout.returns.exists()  # nothing is held against it
    install(host, Wish(), clock, quiet)
    assert current_version(host.layout) == "1.1"


def test_a_version_that_was_on_trial_without_a_network_has_another_trial_once_there_is_one(
    computer: tuple[Host, RememberedComputer],
) -> None:
    host, remembered = computer
    install(host, Wish(), clock, quiet)
    first = trial_of(host).id
    seen: list[object] = []

    def look() -> None:
        seen.extend([current_version(host.layout), trial_of(host).stage, host.layout.returns.exists()])

    hour = 3600.0
    days = Days({hour: look, 5 * hour: lambda: reach(host), 5 * hour + 300: lambda: confirm_here(host)})
    said = look_after(host, days)
    assert seen == ["1.0", "untold", False]
    assert current_version(host.layout) == "1.1"
    assert (host.layout.trial.exists(), remembered.watch_enabled, host.layout.returns.exists()) == (False, False, False)
    confirmed = read_record(Confirmed, host.places.confirmed)
    assert confirmed is not None
    assert confirmed.trial != first  # what is said in one trial does not count for another
    assert said[-1] == "the trial is over: version 1.1 works"


def test_a_network_that_is_always_away_during_trials_ends_them_and_blames_nobody(
    computer: tuple[Host, RememberedComputer],
) -> None:
    host, _ = computer
    install(host, Wish(), clock, quiet)
    hour = 3600.0
    days = Days({at * hour: lambda: reach(host) for at in range(1, 40)})
    trials: set[str] = set()

    def pause(seconds: float) -> None:
        trials.add(trial_of(host).id)
        days.pause(seconds)

    watch(host, days.now, days.steady, pause, quiet)
    assert len(trials) == MOST_TRIES
    assert current_version(host.layout) == "1.0"
    known = read_record(Returns, host.layout.returns)
    assert known is not None
    assert (known.bad, [each.untold for each in known.returns]) == ((), [True])
    install(host, Wish(), clock, quiet)  # needs no --again
    assert (current_version(host.layout), trial_of(host).tries) == ("1.1", 0)


@pytest.mark.parametrize("cut", ["reload", "restart"])
def test_cut_on_the_way_to_or_from_another_trial_it_is_gone_to_its_end(
    computer: tuple[Host, RememberedComputer], cut: str
) -> None:
    host, remembered = computer
    install(host, Wish(), clock, quiet)
    hour = 3600.0
    days = Days({hour - 60: lambda: remembered.refuse.add(cut), hour: lambda: reach(host)})
    remembered.refuse.add(cut)
    with pytest.raises(MachineError):
        look_after(host, days)
    assert (current_version(host.layout), trial_of(host).stage) == ("1.0", "returning")
    remembered.refuse.clear()
    remembered.calls.clear()
    with pytest.raises(MachineError):
        look_after(host, days)
    assert (current_version(host.layout), trial_of(host).stage) == ("1.1", "again")
    assert "restart" in remembered.calls
    remembered.refuse.clear()
    remembered.calls.clear()
    tried = trial_of(host).tries
    look_after(host, Days({60: lambda: confirm_here(host)}))
    assert (current_version(host.layout), tried) == ("1.1", 1)
    assert "restart" in remembered.calls


@pytest.mark.parametrize("cut", ["reload", "restart", "disable watch"])
def test_cut_in_the_middle_of_the_way_back_it_is_gone_to_its_end(
    computer: tuple[Host, RememberedComputer], cut: str
) -> None:
    host, remembered = computer
    install(host, Wish(), clock, quiet)
    remembered.restarts = MOST_RESTARTS
    remembered.refuse.add(cut)
    trial = trial_of(host)
    with pytest.raises(MachineError):
        go_back(host, trial, "why", NOON, quiet)
    assert current_version(host.layout) == "1.0"
    remembered.refuse.clear()
    remembered.calls.clear()
    look_after(host, Days())
    assert current_version(host.layout) == "1.0"
    known = read_record(Returns, host.layout.returns)
    assert known is not None
    assert len(known.returns) == 1
    assert not host.layout.trial.exists()
    assert (remembered.watch_enabled, remembered.watching) == (False, True)  # the process ends by itself
    if cut != "disable watch":  # then it was restarted before
        assert "restart" in remembered.calls


def test_cut_between_remembering_and_switching_the_way_back_is_gone(computer: tuple[Host, RememberedComputer]) -> None:
    host, _ = computer
    install(host, Wish(), clock, quiet)
    trial = trial_of(host)
    go_back(host, trial, "why", NOON, quiet)
    layouts.switch(host.layout, "1.1")  # as if the power had failed before the switch was on the disk
    write_record(host.layout.trial, trial)
    confirm_here(host)  # too late: the site may have been told
    look_after(host, Days())
    assert current_version(host.layout) == "1.0"


def test_a_second_newer_version_is_watched_from_the_last_that_worked(
    computer: tuple[Host, RememberedComputer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, _ = computer
    install(host, Wish(), clock, quiet)
    make_tree(tmp_path / "newest", "1.2", WATCHING)
    come_from(monkeypatch, tmp_path / "newest")
    install(host, Wish(), clock, quiet)
    assert (trial_of(host).old, trial_of(host).new) == ("1.0", "1.2")
    assert "1.0" in present_versions(host.layout)
    look_after(host, Days({PATIENCE_S + 60: lambda: reach(host)}))
    assert current_version(host.layout) == "1.0"


def test_who_needs_no_trial_gets_none(
    computer: tuple[Host, RememberedComputer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, remembered = computer
    (host.places.state / "last-contact").unlink()  # it never reached its site: there is nothing to go back for
    install(host, Wish(), clock, quiet)
    assert not host.layout.trial.exists()
    (host.places.state / "last-contact").touch()
    make_tree(tmp_path / "third", "1.2")
    come_from(monkeypatch, tmp_path / "third")
    install(host, Wish(trial_s=0), clock, quiet)
    assert (current_version(host.layout), host.layout.trial.exists()) == ("1.2", False)
    make_tree(tmp_path / "fourth", "1.3")
    come_from(monkeypatch, tmp_path / "fourth")
    install(host, Wish(), clock, quiet)  # 1.2 does not know how to watch
    assert (current_version(host.layout), host.layout.trial.exists()) == ("1.3", False)
    assert "start watch" not in remembered.calls


def test_an_administrator_who_wants_no_trial_ends_the_one_that_is_on(
    computer: tuple[Host, RememberedComputer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, remembered = computer
    install(host, Wish(), clock, quiet)
    make_tree(tmp_path / "third", "1.2")
    come_from(monkeypatch, tmp_path / "third")
    install(host, Wish(trial_s=0), clock, quiet)
    assert (host.layout.trial.exists(), host.layout.watch_unit.exists()) == (False, False)
    assert not remembered.watch_enabled


def test_removal_ends_a_trial_first(computer: tuple[Host, RememberedComputer]) -> None:
    host, remembered = computer
    install(host, Wish(), clock, quiet)
    remove(host, clock, quiet)
    assert remembered.calls.index("stop watch") < remembered.calls.index("stop")
    assert not host.layout.watch_unit.exists()
    assert not host.layout.program.exists()


def test_a_removal_that_is_refused_leaves_a_trial_on(computer: tuple[Host, RememberedComputer]) -> None:
    host, remembered = computer
    install(host, Wish(), clock, quiet)
    remembered.refuse.add("stop")
    with pytest.raises(MachineError):
        remove(host, clock, quiet)
    assert (remembered.watching, host.layout.trial.exists(), host.layout.watch_unit.exists()) == (True, True, True)


# ---- the decision


TRIAL = Trial(id="ab", old="1.0", new="1.1", begun=NOON, until=NOON + timedelta(minutes=15), patience_s=900)


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (Seen("1.1", False, False, 0, 0), Verdict.WAIT),
        (Seen("1.1", False, False, MOST_RESTARTS - 1, 899), Verdict.WAIT),
        (Seen("1.1", False, False, MOST_RESTARTS, 0), Verdict.RETURN),
        (Seen("1.1", False, False, 0, 900), Verdict.TURN_BACK),
        (Seen("1.1", True, False, 99, 9999), Verdict.OVER),
        (Seen("1.1", True, True, 0, 0), Verdict.RETURN),
        (Seen("1.0", False, True, 0, 0), Verdict.RETURN),
        (Seen("1.0", False, False, 99, 899), Verdict.WAIT),
        (Seen("1.0", False, False, 0, 900), Verdict.OVER),
        (Seen(None, False, False, 0, 900), Verdict.OVER),
    ],
)
def test_the_decision(seen: Seen, verdict: Verdict) -> None:
    assert decide(TRIAL, seen, 900)[0] is verdict


def untold(tries: int) -> Trial:
    return structs.replace(TRIAL, stage="untold", tries=tries, since=NOON, why="It did not.")


@pytest.mark.parametrize(
    ("tries", "seen", "verdict"),
    [
        (1, Seen("1.0", False, False, 0, 0), Verdict.WAIT),
        (1, Seen("1.0", False, False, 0, MOST_UNTOLD_S - 1), Verdict.WAIT),
        (1, Seen("1.0", False, False, 0, MOST_UNTOLD_S), Verdict.GIVE_UP),
        (1, Seen("1.0", False, False, 0, 299, reached=True), Verdict.BAD),
        (3, Seen("1.0", False, False, 0, 299, reached=True), Verdict.BAD),
        (1, Seen("1.0", True, False, 0, 299, reached=True), Verdict.AGAIN),  # it worked, in the last moment
        (1, Seen("1.0", False, False, 0, 300, reached=True), Verdict.AGAIN),
        (2, Seen("1.0", False, False, 0, 300, reached=True), Verdict.AGAIN),
        (3, Seen("1.0", False, False, 0, 300, reached=True), Verdict.GIVE_UP),
        (1, Seen("1.0", False, False, 0, 300, reached=True, whole=False), Verdict.GIVE_UP),
        (1, Seen("1.0", False, True, 0, 0), Verdict.RETURN),
        (1, Seen("1.2", False, False, 0, 0), Verdict.OVER),
    ],
)
def test_the_decision_while_nobody_knows_whose_fault_it_was(tries: int, seen: Seen, verdict: Verdict) -> None:
    assert decide(untold(tries), seen, 900)[0] is verdict


def test_a_clock_that_was_set_makes_a_trial_neither_endless_nor_hopeless() -> None:
    assert patience_left(TRIAL, NOON) == 900
    assert patience_left(TRIAL, NOON + timedelta(minutes=5)) == 600
    assert patience_left(TRIAL, NOON + timedelta(days=400)) == 300
    assert patience_left(TRIAL, datetime(1971, 1, 2, tzinfo=UTC)) == 900


# ---- the service's own part


@pytest.fixture
def places(tmp_path: Path) -> Places:
    places = find_places(tmp_path)
    places.trial.parent.mkdir(parents=True)
    places.state.mkdir()
    return places


def on_trial(places: Places, new: str = AGENT_VERSION) -> Trial:
    trial = Trial(id="cd", old="0.0.1", new=new, begun=NOON, until=NOON + timedelta(minutes=15), patience_s=900)
    write_record(places.trial, trial)
    return trial


def test_only_the_version_on_trial_confirms_and_only_its_own_trial(places: Places) -> None:
    assert own_trial(places) is None
    on_trial(places, "77.0")
    assert own_trial(places) is None
    trial = on_trial(places)
    write_record(places.confirmed, Confirmed(trial="an earlier one", version=AGENT_VERSION, at=NOON))
    assert own_trial(places) == trial
    update = show_update(places)
    assert update is not None
    assert (update.state, update.old, update.new) == ("trial", "0.0.1", AGENT_VERSION)
    waiting = structs.replace(trial, old=AGENT_VERSION, new="77.0", stage="untold", since=NOON)
    write_record(places.trial, waiting)
    update = show_update(places)
    assert update is not None
    assert (update.state, update.new, update.at) == ("untold", "77.0", NOON)
    write_record(places.trial, trial)
    confirm(trial, places, "http://a", NOON)
    assert is_confirmed(trial, places)
    assert own_trial(places) is None
    places.trial.write_bytes(b"{")
    assert own_trial(places) is None


def test_each_return_is_told_once(places: Places, tmp_path: Path) -> None:
    host, _ = make_host(tmp_path / "root")
    with State.open(places.state, NOON) as state:
        assert tell_returns(state, places) == []
        for number, new in enumerate(("0.9", "0.9.1")):
            trial = Trial(id=str(number), old="0.1.0", new=new, begun=NOON, until=NOON, patience_s=900)
            make_tree(host.layout.version("0.1.0"), "0.1.0")
            go_back(host, trial, "It was no good.", NOON, quiet)
            places.returns.write_bytes(host.layout.returns.read_bytes())
            assert tell_returns(state, places) == [f"Version 0.1.0 is in use again instead of {new}. It was no good."]
            assert tell_returns(state, places) == []
        told = state.refusals(unreported=True)
    assert [(each.code, each.source) for each in told] == [(RETURNED, "version 0.9"), (RETURNED, "version 0.9.1")]
    update = show_update(places)
    assert update is not None
    assert (update.state, update.new, update.why) == ("returned", "0.9.1", "It was no good.")
    known = read_record(Returns, places.returns)
    assert known is not None
    earlier = tuple(structs.replace(each, old="0.0.9") for each in known.returns)
    write_record(places.returns, Returns(returns=earlier, bad=known.bad))
    assert show_update(places) is None  # this version has come since


def test_a_version_on_trial_asks_for_everything(places: Places) -> None:
    with State.open(places.state, NOON) as state:
        state.set_meta("etag.http://a", '"x"')
        state.set_meta("eta", "stays")
        ask_in_full(state)
        assert (state.meta("etag.http://a"), state.meta("eta")) == ("", "stays")


def test_begin_again_restarts_what_watches(computer: tuple[Host, RememberedComputer]) -> None:
    host, remembered = computer
    for _ in range(2):
        begin(host, "1.0", "1.1", 60, NOON)
    assert remembered.calls == ["reload", "enable watch", "start watch", "reload", "enable watch", "restart watch"]
