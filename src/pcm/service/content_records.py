"""What is remembered of content: which manifests belong to what the store holds, and how each package's content came.

Serves steps 6 to 9: `catalogue` keeps those manifests for which this module speaks, `content_bring` writes, `pcmsvc why` and
reports read. Kept in the state database, bounded; losing it costs bytes of the next update and nothing else.
"""

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from pcm.model.content_policy import ContentPolicy
from pcm.protocol.report import MAX_WAYS, ContentWay
from pcm.service.kept_header import read_header
from pcm.service.records import to_text
from pcm.service.state import State

if TYPE_CHECKING:
    from pcm.content.assembly import Brought

HELD, BROUGHT = "content.held", "content.brought"  # in `meta`
MOST_VERSIONS, MOST_PACKAGES, MOST_RECORDS = 2, 200, 60


class Way(msgspec.Struct, frozen=True, omit_defaults=True):
    """Files that came by one way from one source; `plain` their bytes, `bytes` what travelled."""

    way: str
    source: str
    files: int
    plain: int
    bytes: int


class Why(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why so many files were to come that way. `instead`: what their objects would have taken."""

    way: str
    text: str
    files: int
    bytes: int
    instead: int


class ContentRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the content of one version came: `whole` is what would have travelled had everything come as objects."""

    manifest: str
    at: datetime
    files: int
    bytes: int
    travelled: int
    whole: int = 0
    ways: tuple[Way, ...] = ()
    reasons: tuple[Why, ...] = ()

    @property
    def saved(self) -> int:
        """Bytes that did not have to travel."""
        return max(0, self.whole - self.travelled)


def make_record(manifest: str, at: datetime, brought: "Brought") -> ContentRecord:
    """What is kept of a fetch."""
    choice = brought.choice
    return ContentRecord(
        manifest,
        at,
        brought.files,
        brought.bytes,
        sum(each.bytes for each in brought.traffic),
        0 if choice is None else choice.whole_bytes,
        tuple(Way(*each) for each in brought.traffic),
        () if choice is None else tuple(Why(*each) for each in choice.reasons),
    )


def note_brought(state: State, record: ContentRecord) -> None:
    """Remember how content came; a later fetch for the same version, of what was damaged or missing, is added up."""
    others = [each for each in read_records(state) if each.manifest != record.manifest]
    kept = (record, *others)[:MOST_RECORDS]
    state.set_meta(BROUGHT, msgspec.json.encode(kept).decode(), durable=False)


def read_records(state: State) -> tuple[ContentRecord, ...]:
    """What is remembered, newest first."""
    try:
        return msgspec.json.decode(state.meta(BROUGHT) or "[]", type=tuple[ContentRecord, ...])
    except msgspec.DecodeError:
        return ()


def find_record(state: State, manifest: str) -> ContentRecord | None:
    """How the content of a version came, if it came lately."""
    return next((each for each in read_records(state) if each.manifest == manifest), None)


def reported_ways(state: State, manifest: str) -> tuple[ContentWay, ...]:
    """How the content of a version came, as the report of the first run since then tells it, so nothing counts twice."""
    record = find_record(state, manifest)
    if record is None:
        return ()
    told = "SELECT 1 FROM runs WHERE manifest_sha256 = ? AND finished = 1 AND started >= ? LIMIT 1"
    if state.rows(told, (manifest, to_text(record.at))):
        return ()
    return tuple(ContentWay(each.way, each.source[:400], each.files, each.bytes) for each in record.ways[:MAX_WAYS])


def note_held(state: State, package: str, manifest: str) -> None:
    """The store holds this version of a package now: its manifest is what the next one's patches start from."""
    held = read_held(state)
    versions = (manifest, *(each for each in held.pop(package, ()) if each != manifest))[:MOST_VERSIONS]
    kept = dict(list({package: versions, **held}.items())[:MOST_PACKAGES])
    text = msgspec.json.encode(kept).decode()
    if text != state.meta(HELD):
        state.set_meta(HELD, text, durable=False)


def read_held(state: State) -> dict[str, tuple[str, ...]]:
    """By package, the versions whose files the store may hold: SHA-256 of their manifests, newest first."""
    try:
        return msgspec.json.decode(state.meta(HELD) or "{}", type=dict[str, tuple[str, ...]])
    except msgspec.DecodeError:
        return {}


def held_manifests(state: State) -> set[str]:
    """All of them."""
    return {manifest for versions in read_held(state).values() for manifest in versions}


def read_policy(state: State) -> ContentPolicy:
    """The content policy of the newest verified instructions."""
    header = read_header(state)
    return header.content if header is not None else ContentPolicy()
