"""What is for me? Fetches and verifies instructions and packages, and makes them current in one transaction each.

Step 6 of 12: after the clock was checked, before `service.planner`. The numbers in comments are those of the design's fourteen
checks; 3 to 6 and 8 to 11 are `trust`'s, this module brings them what they ask for and keeps what they return. The fast path: a
signed question with the entity tag of the last answer; 304 means nothing changed, and neither tuf nor any file is touched.

A refused file changes nothing but a counter of refusals (check 14): what was verified before stays in force until its signatures
expire. Servers are tried in order; each is verified by itself, so asking the next after a forgery believes nothing of the first.
"""

import re
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from pcm.model.errors import PcmError, RequestError, TransferError, TrustError
from pcm.model.instruction import Instruction
from pcm.protocol.enrolment import ClientConfiguration
from pcm.protocol.instructions import Instructions, write_instructions
from pcm.service import faults
from pcm.service.journal import Journal, Verified
from pcm.service.kept_header import HEADER as HEADER  # noqa: PLC0414 - whoever asks the inbox gets it here too
from pcm.service.kept_header import read_header as read_header  # noqa: PLC0414
from pcm.service.places import Places
from pcm.service.records import to_text, to_time
from pcm.service.sources import LOGON, Network, Servers
from pcm.service.state import State
from pcm.trust.codes import REFUSALS

INSTRUCTIONS = "instructions"  # the name of its floors
SERIAL = "instructions.serial"
SHA256 = "instructions.sha256"
VALID_UNTIL = "instructions.valid_until"
CURRENT_INSTRUCTIONS = "metadata.instructions"
PACKAGES_DUE = "packages.due"
LAST_SERVER = "last_server"
LAST_CONTACT, LAST_CHECK = "last-contact", "last-check"  # `State.touch`
SYNC = "sync.requested"  # by an administrator, over the local socket
ETAG = "etag."
ROOTS_ASKED = "roots.asked"  # when the other logon servers were last asked for a newer root
ASK_ROOTS = timedelta(days=1)
MOST_ASKED = 8
OLDER_ORDER = "trust.rollback"  # the journal's verdict on a single order that went back


class Refreshed(NamedTuple):
    """What came of asking.

    Attributes:
        contact: A server answered and what it said holds.
        changed: There are other instructions than before.
        trace: One line for each server that was tried, for people.
        error: Why there was no contact.
    """

    contact: bool
    changed: bool
    trace: tuple[str, ...]
    error: PcmError | None = None

    @property
    def refused_by_trust(self) -> bool:
        """What the servers sent was refused, and no other server had better."""
        return self.error is not None and self.error.code in REFUSALS


class Desk(NamedTuple):
    """What the inbox and the catalogue work with.

    Attributes:
        state: Open, and owned by this process (the work lock is held).
        network: The way to the servers.
        configuration: As enrolled.
        places: Where metadata is kept.
        client_id: This client.
        clock: Aware, UTC.
    """

    state: State
    network: Network
    configuration: ClientConfiguration
    places: Places
    client_id: str
    clock: Callable[[], datetime]


class Inbox:
    """One check's view of the servers.

    Args:
        desk: What it works with.
        version: Of this service.
    """

    def __init__(self, desk: Desk, version: str) -> None:
        self._it = desk
        self._version = version

    def refresh(self, *, forced: bool = False) -> Refreshed:
        """Checks 3 to 7: bring the newest instructions, from the first server that has them.

        Args:
            forced: An administrator asks: also servers that rest after refusing this client's key.

        Raises:
            StoreError: this disk.
        """
        servers = logon_servers(self._it.state, read_header(self._it.state), self._it.configuration)
        if forced:
            servers.forget_refusals()
        now = self._it.clock()
        refreshed = ask_in_order(self._it.state, servers, self._it.network, now, self._refresh_from)
        if refreshed.contact and roots_due(self._it.state, now) <= now and self._ask_others(servers):
            return ask_in_order(self._it.state, servers, self._it.network, now, self._refresh_from)
        return refreshed

    def _ask_others(self, servers: Servers) -> bool:
        """Ask the logon servers that were not asked just now for a newer root; whether one had any."""
        it = self._it
        it.state.set_meta(ROOTS_ASKED, to_text(it.clock()), durable=False)
        answered = it.state.meta(LAST_SERVER)
        others = [name for name in servers.names if name != answered][:MOST_ASKED]
        if not others:
            return False
        from pcm.trust.newer_roots import keep_newer  # noqa: PLC0415 - loads tuf, once a day
        from pcm.trust.refresh import instruction_repository  # noqa: PLC0415

        repository = instruction_repository(it.configuration.site, it.client_id, read_root(it.places.instructions_root))
        current = metadata_folder(it.places, "instructions", int(it.state.meta(CURRENT_INSTRUCTIONS, "0")))
        found = 0
        for server in others:
            try:
                found += keep_newer(repository, current, it.network.public_files(server))
            except TrustError as error:
                it.state.refuse(error.code, it.clock(), _shortened(error.message)[:1000], server)
            except TransferError:
                continue  # it is not there: nothing is known of it, and nothing is held against it
        if found:
            with it.state.transaction() as connection:  # every server now has to show files that fit the newer root
                connection.execute("DELETE FROM meta WHERE substr(key, 1, ?) = ?", (len(ETAG), ETAG))
        return bool(found)

    def _refresh_from(self, server: str) -> bool:
        """Whether one server had something new."""
        polled = self._it.network.poll(server, self._usable_etag(server))
        if polled.timestamp is None:
            self._note_contact(server)
            return False
        return self._take_new(server, polled.timestamp, polled.etag)

    def _usable_etag(self, server: str) -> str | None:
        """The tag of what this server sent last, if the cached instructions are whole and their signatures still hold."""
        until = self._it.state.meta(VALID_UNTIL)
        if not until or to_time(until) <= self._it.clock():
            return None  # a server that says 'nothing new' now is holding something back: it must show what it has
        return self._it.state.meta(ETAG + server) or None

    def _take_new(self, server: str, timestamp: bytes, etag: str | None) -> bool:
        # 123 ms and 25 MB, so only when something is new
        from pcm.trust.instructions import Recipient, Seen, verify_instructions  # noqa: PLC0415

        number = int(self._it.state.meta(CURRENT_INSTRUCTIONS, "0"))
        seen = Seen(
            self._it.state.floors(INSTRUCTIONS), int(self._it.state.meta(SERIAL, "0")), self._it.state.meta(SHA256)
        )
        verified = verify_instructions(  # checks 3 to 6
            Recipient(self._it.configuration.site, self._it.client_id, self._version),
            read_root(self._it.places.instructions_root),
            metadata_folder(self._it.places, "instructions", number),
            metadata_folder(self._it.places, "instructions", number + 1),
            seen=seen,
            fetch=self._it.network.logon_files(server, timestamp),
            now=self._it.clock(),
        )
        faults.reach("instructions.verified")
        now = self._it.clock()
        changed = verified.changed or not self._it.state.meta(HEADER)
        with self._it.state.transaction():  # check 7
            self._it.state.store_floors(INSTRUCTIONS, verified.seen.floors)
            self._it.state.set_meta(SERIAL, str(verified.seen.serial), kept=True)
            self._it.state.set_meta(SHA256, verified.seen.sha256, kept=True)
            self._it.state.set_meta(CURRENT_INSTRUCTIONS, str(number + 1))
            self._it.state.set_meta(VALID_UNTIL, to_text(verified.valid_until))
            self._it.state.set_meta(ETAG + server, etag or "")
            if changed:
                self._take_in(verified.instructions.instructions, now)
                header = replace(verified.instructions, instructions=())
                self._it.state.set_meta(HEADER, write_instructions(header).decode())
                self._it.state.set_meta(PACKAGES_DUE, "1")
        faults.reach("instructions.committed")
        self._note_contact(server)
        remove_other_folders(self._it.places, "instructions", number + 1)
        return changed

    def _take_in(self, instructions: Iterable[Instruction], now: datetime) -> None:
        """What the packagers' signatures said of an order stays, until `catalogue` has looked again."""
        journal = Journal(self._it.state)
        said = {record.id: (record.verdict_code, record.verdict_reason) for record in journal.records()}
        verified = []
        for instruction in instructions:
            code, reason = said.get(instruction.id, ("", ""))
            kept = code != OLDER_ORDER  # that one is about the file before
            verified.append(Verified(instruction, code if kept else "", reason if kept else ""))
        journal.take_in(verified, now)

    def _note_contact(self, server: str) -> None:
        self._it.state.touch(LAST_CONTACT, self._it.clock())
        if self._it.state.meta(LAST_SERVER) != server:
            self._it.state.set_meta(LAST_SERVER, server, durable=False)


def roots_due(state: State, now: datetime) -> datetime:
    """When the other logon servers are to be asked for a newer root: once a day; a time to come is a wrong clock's."""
    asked = state.meta(ROOTS_ASKED)
    last = to_time(asked) if asked else None
    return now if last is None or last > now else last + ASK_ROOTS


def ask_in_order(
    state: State, servers: Servers, network: Network, now: datetime, ask: Callable[[str], bool]
) -> Refreshed:
    """Ask one server after the other; refusals are recorded with their server, and the next one is asked.

    Args:
        ask: Tells whether anything changed; raises TransferError or TrustError.
    """
    refusals: list[TrustError] = []

    def question(server: str) -> bool:
        try:
            return ask(server)
        except TrustError as error:  # check 14
            told = TrustError(_shortened(error.message)[:1000], code=error.code, retry=error.retry)
            refusals.append(told)
            state.refuse(told.code, now, told.message, server)
            raise TransferError(f"refused [{told.code}]: {told.message}", code=told.code) from error
        except TransferError as error:
            if error.code == "transfer.refused":
                state.refuse(error.code, now, error.message[:1000], server)
            raise

    try:
        changed, attempts = servers.ask(question, now, network.chance)
    except TransferError as error:
        # each fact once: of several servers all are told, one server's refusal is the whole story
        several = bool(refusals) and len(servers.names) > 1
        return Refreshed(False, False, (error.message,) if several else (), refusals[0] if refusals else error)
    trace = tuple(
        f"{each.server}: {f'{each.message} [{each.code}]' if each.code else f'it answered ({each.reason})'}"
        for each in attempts
    )
    return Refreshed(True, changed, trace)


def _shortened(message: str) -> str:
    """Key ids and hashes by their first digits, as people compare them."""
    return re.sub(r"\b([0-9a-f]{8})[0-9a-f]{56}\b", r"\1…", message)


def logon_servers(state: State, header: Instructions | None, configuration: ClientConfiguration) -> Servers:
    """The logon servers as the newest verified file orders them, and those that this computer was set up with.

    Args:
        header: From `read_header`.
    """
    return Servers(state, LOGON, header.servers.logon if header else (), configuration.logon)


def read_root(path: Path) -> bytes:
    """A pinned root.

    Raises:
        RequestError: `not_enrolled`, it is missing.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise RequestError(
            f"The pinned root {path} cannot be read ({error.strerror}); enrol again with `pcmsvc enroll --kit FILE`.",
            code="not_enrolled",
        ) from None


def metadata_folder(places: Places, repository: str, number: int) -> Path:
    """Folder of one numbered copy of a repository's metadata; number 0 never exists."""
    return places.metadata / f"{repository}-{number}"


def remove_other_folders(places: Places, repository: str, current: int) -> None:
    """Remove copies that are no longer, or were never, current."""
    from pcm.trust import cache  # noqa: PLC0415 - loads shutil

    keep = metadata_folder(places, repository, current).name
    for folder in places.metadata.glob(f"{repository}-*"):
        if folder.name != keep:
            try:
                cache.discard(folder)
            except OSError:
                continue  # tried again the next time; it is only space
