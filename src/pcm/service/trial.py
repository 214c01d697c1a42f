"""The trial of another version of this service: what is written of it, and the service's own part in it.

Serves step 6. Before: `installation.trials` has written the record and switched, and the version before watches
(`installation.watch`). Here the service of the new version shows that it works: it reaches a logon server, verifies everything
that the server has, and says so in `confirmed.json`, which names the trial. The service of the version that came back tells the
site (`update.returned`). Each record is a small file, because the version before must read what the newer one wrote whatever
has become of the database. Nothing here switches versions.
"""

from datetime import datetime
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from pcm.model.errors import RequestError
from pcm.protocol import codec
from pcm.protocol.local import Update
from pcm.service import inbox
from pcm.service.facts import AGENT_VERSION
from pcm.service.machine.durable import write_atomically
from pcm.service.places import Places
from pcm.service.state import State

RETURNED = "update.returned"
TOLD = "update.told"  # the last return that the site was told of
KEPT_RETURNS = 20
_MAX_BYTES = 256 * 1024
_SHOWN = 400  # letters of a reason


class Trial(codec.Document, frozen=True, kw_only=True, tag="pcm.trial", rename={"old": "from", "new": "to"}):
    """A version on trial: `new` is in use, and `old` comes back unless `new` has shown by `until` that it works.

    `id`: of this one trial. `patience_s`: how long it may take; `until` is that by the wall clock, which may be set meanwhile.

    The rest is written by what watches, once a trial ended without an answer (`installation.again`). `stage`: `returning`, `old`
    is about to be in use again; `untold`, it is, since `since`, and what it reaches says whose fault it was; `again`, `new` is
    about to have another try. `tries`: how many trials ended so, this one included. `contact`: `last_contact` as it was then.
    `why`: what is told if it was the version's fault.
    """

    id: str
    old: str
    new: str
    begun: datetime
    until: datetime
    patience_s: int
    stage: Literal["trial", "returning", "untold", "again"] = "trial"
    tries: int = 0
    since: datetime | None = None
    contact: int = 0
    why: str = ""


class Confirmed(codec.Document, frozen=True, kw_only=True, tag="pcm.confirmed"):
    """`version` reached a logon server `at` that time, and what it sent held."""

    trial: str
    version: str
    at: datetime
    server: str = ""


class Return(msgspec.Struct, frozen=True, kw_only=True, rename={"old": "from", "new": "to"}):
    """A trial that ended with the version before: `old` is in use again instead of `new`.

    `untold`: nobody knows whose fault it was, and nothing is held against `new`.
    """

    id: str
    old: str
    new: str
    at: datetime
    why: str
    untold: bool = False

    def told(self) -> str:
        """In a sentence."""
        return f"Version {self.old} is in use again instead of {self.new}. {self.why}"


class Returns(codec.Document, frozen=True, kw_only=True, tag="pcm.returns"):
    """Every return, oldest first, and the versions that are not installed again by themselves."""

    returns: tuple[Return, ...] = ()
    bad: tuple[str, ...] = ()


D = TypeVar("D", Trial, Confirmed, Returns)


def read_record(kind: type[D], path: Path) -> D | None:
    """A record; None if there is none, or none that can be read: it was written whole, so somebody else changed it."""
    try:
        return codec.decode(kind, path.read_bytes(), max_bytes=_MAX_BYTES)
    except (OSError, RequestError):
        return None


def write_record(path: Path, record: Trial | Confirmed | Returns) -> None:
    """Write a record, durably, whole or not at all.

    Raises:
        StoreError, MachineError: this disk.
    """
    write_atomically(path, codec.encode(record), 0o644)


def own_trial(places: Places) -> Trial | None:
    """The trial that this very version is on, unless it has shown already that it works."""
    trial = read_record(Trial, places.trial)
    if trial is None or trial.new != AGENT_VERSION or is_confirmed(trial, places):
        return None
    return trial


def is_confirmed(trial: Trial, places: Places) -> bool:
    """Whether the new version has shown that it works."""
    confirmed = read_record(Confirmed, places.confirmed)
    return confirmed is not None and (confirmed.trial, confirmed.version) == (trial.id, trial.new)


def last_contact(places: Places) -> int:
    """Which contact with the site was the last: changes with each; 0 if there was none."""
    try:
        return (places.state / inbox.LAST_CONTACT).stat().st_mtime_ns
    except OSError:
        return 0


def ask_in_full(state: State) -> None:
    """Have every server send all that it has: a version that was told 'nothing new' has verified nothing."""
    with state.transaction() as connection:
        connection.execute("DELETE FROM meta WHERE substr(key, 1, ?) = ?", (len(inbox.ETAG), inbox.ETAG))


def confirm(trial: Trial, places: Places, server: str, now: datetime) -> None:
    """Say that this version works. The one that watches ends the trial.

    Raises:
        StoreError, MachineError: this disk; then the next check says it.
    """
    write_record(places.confirmed, Confirmed(trial=trial.id, version=trial.new, at=now, server=server[:1000]))


def tell_returns(state: State, places: Places) -> list[str]:
    """Put each return that the site does not know into the next report; what was told, in sentences."""
    record = read_record(Returns, places.returns)
    if record is None or not record.returns or state.meta(TOLD) == record.returns[-1].id:
        return []
    ids = [each.id for each in record.returns]
    known = ids.index(state.meta(TOLD)) + 1 if state.meta(TOLD) in ids else 0
    with state.transaction():
        for each in record.returns[known:]:
            state.refuse(RETURNED, each.at, each.told()[:1000], f"version {each.new}")
        state.set_meta(TOLD, ids[-1])
    return [each.told() for each in record.returns[known:]]


def show_update(places: Places) -> Update | None:
    """What people are told of a trial, or of the last return while nothing has come since."""
    trial = own_trial(places)
    if trial is not None:
        return Update("trial", trial.old, trial.new, trial.until)
    trial = read_record(Trial, places.trial)
    if trial is not None and trial.stage == "untold" and trial.old == AGENT_VERSION:
        return Update("untold", trial.old, trial.new, trial.since or trial.until)
    record = read_record(Returns, places.returns)
    last = record.returns[-1] if record is not None and record.returns else None
    if record is None or last is None or not _counts(last, record) or last.old != AGENT_VERSION:
        return None
    return Update("returned", last.old, last.new, last.at, last.why[:_SHOWN])


def _counts(last: Return, record: Returns) -> bool:
    """Whether the last return still says something: nobody has wanted that version once more."""
    return last.untold or last.new in record.bad
