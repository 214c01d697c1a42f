"""One client's instruction file as bytes, from its assignments: what is undone, and nothing else.

Step 5 of 12, the pure part: rows in, bytes out; `compile` reads the rows before and signs the bytes after. A job's
instruction is encoded once and shared by all its clients, which differ in its id only (and in their place among
those that approvers named), and so is the whole list of those that have the same jobs: that keeps a hundred thousand
files affordable. Equal content gives an equal
`content_sha256`, whatever its serial and dates, so an unchanged file is never signed anew.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import NamedTuple

import msgspec

from pcm.model.content_policy import ContentPolicy
from pcm.model.instruction import Approval, Count, Instruction, ManifestReference
from pcm.model.job import JobOrder
from pcm.model.names import instruction_id
from pcm.model.schedule import Window
from pcm.protocol import codec
from pcm.protocol.instructions import KIND, RepositoryFloor, Servers, Version
from pcm.site.job_life import LAST_ZONE

# an assignment that is one of these leaves nothing to wait for
DONE = frozenset({"succeeded", "already_installed"})
_NONE = b"[]"  # the document's own writer leaves an empty list out
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class JobFacts(NamedTuple):
    """A job as instructions name it. `envelopes`: approvals; `proofs`: client id → its place in their audience."""

    id: str
    generation: int
    order: JobOrder
    created: datetime
    package: str
    version: str
    release: int
    manifest: ManifestReference
    envelopes: tuple[bytes, ...] = ()
    proofs: Mapping[str, Sequence[str]] | None = None


class FileFrame(NamedTuple):
    """What all files of one compilation share."""

    site: str
    servers: Servers
    poll_after_s: int
    min_client_version: str
    windows: tuple[Window, ...]
    content: ContentPolicy = ContentPolicy()


class _File(codec.Document, frozen=True, kw_only=True, omit_defaults=True, tag=KIND):
    """`protocol.instructions.Instructions` with instructions that are encoded already."""

    site: str
    client_id: str
    serial: Version
    issued: datetime
    expires: datetime
    min_client_version: str = "0"
    package_repository_min: RepositoryFloor = RepositoryFloor()
    poll_after_s: int = 1800
    windows: tuple[Window, ...] = ()
    servers: Servers = Servers()
    content: ContentPolicy = ContentPolicy()
    acknowledged_seq: Count = 0
    instructions: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class JobTemplate:
    """One job's instruction, ready for any of its clients."""

    def __init__(self, facts: JobFacts) -> None:
        self.facts = facts
        placeholder = f"{facts.id}.{'0' * 12}"
        encoded = codec.encode(_instruction(facts, placeholder, (), ()))
        # keys are sorted, and no key before `id` holds free text as an object, so the first match is the id itself
        before, _, after = encoded.partition(f'"id":"{placeholder}"'.encode())
        self.before, self.after = before + f'"id":"{facts.id}.'.encode(), b'"' + after

    @property
    def differs_in_its_id_only(self) -> bool:
        """Whether it is the same for every client but for the end of its id, which stands between `before` and `after`."""
        return not self.facts.order.after and self.facts.proofs is None

    def render(self, client_id: str, standing: Mapping[str, str]) -> msgspec.Raw:
        """The instruction for one client.

        Args:
            standing: Job id → state of all of this client's assignments.
        """
        facts = self.facts
        name = instruction_id(facts.id, client_id)
        waits = tuple(job for job in facts.order.after if job in standing and standing[job] not in DONE)
        if not waits and facts.proofs is None:
            return msgspec.Raw(self.before + _own_part(client_id) + self.after)
        proof = tuple((facts.proofs or {}).get(client_id, ()))
        approvals = tuple(Approval(envelope=_text(envelope), proof=proof) for envelope in facts.envelopes)
        return msgspec.Raw(codec.encode(_instruction(facts, name, waits, approvals)))


class JobList:
    """The instructions of all clients that have the same jobs. In a fleet nearly all have, so it is laid out once for them."""

    def __init__(self, templates: Sequence[JobTemplate]) -> None:
        self._templates = templates
        self._pieces: list[bytes] | None = None
        if templates and all(each.differs_in_its_id_only for each in templates):
            # what stands between the places of the clients' own part: joined by that part, they are the list
            ends = [first.after + b"," + second.before for first, second in pairwise(templates)]
            self._pieces = [b"[" + templates[0].before, *ends, templates[-1].after + b"]"]

    def render(self, client_id: str, standing: Mapping[str, str]) -> bytes:
        """The list for one client, a JSON array; `standing` as `JobTemplate.render` takes it."""
        if self._pieces is not None:
            return _own_part(client_id).join(self._pieces)
        return b"[" + b",".join(bytes(each.render(client_id, standing)) for each in self._templates) + b"]"


def content(frame: FileFrame, client_id: str, instructions: bytes, dropped_seq: int) -> tuple[_File, str]:
    """A file without serial and dates, and the hash by which equal content is known.

    Args:
        instructions: From `JobList.render`.
    """
    file = _File(
        site=frame.site,
        client_id=client_id,
        serial=1,
        issued=_EPOCH,
        expires=_EPOCH,
        min_client_version=frame.min_client_version,
        poll_after_s=frame.poll_after_s,
        windows=frame.windows,
        servers=frame.servers,
        content=frame.content,
        acknowledged_seq=dropped_seq,
        instructions=msgspec.Raw(instructions) if instructions != _NONE else msgspec.UNSET,
    )
    return file, hashlib.sha256(codec.encode(file)).hexdigest()


def finish(
    file: _File, serial: int, issued: datetime, expires: datetime, floor: RepositoryFloor, acknowledged: int
) -> bytes:
    """The file's bytes, as they are signed."""
    return codec.encode(
        msgspec.structs.replace(
            file,
            serial=serial,
            issued=issued,
            expires=expires,
            package_repository_min=floor,
            acknowledged_seq=acknowledged,
        )
    )


def _instruction(facts: JobFacts, name: str, after: tuple[str, ...], approvals: tuple[Approval, ...]) -> Instruction:
    order = facts.order
    # 'now' by every client's own clock is the time that has come in the last zone, too
    now = facts.created if order.clock == "utc" else facts.created - LAST_ZONE
    offer = order.offer_after or now
    return Instruction(
        id=name,
        generation=facts.generation,
        job=facts.id,
        package=facts.package,
        version=facts.version,
        release=facts.release,
        program=order.program,
        manifest=facts.manifest,
        purpose=order.purpose,
        offer_after=offer,
        mandatory_after=(order.mandatory_after or offer) if order.purpose == "mandatory" else None,
        expires_after=order.expires_after,
        clock=order.clock,
        parameters=order.parameters,
        after=after,
        priority=order.priority,
        window_policy=order.window_policy,
        deferral=order.deferral,
        notify=order.notify,
        allowed_users=order.allowed_users,
        restart_policy=order.restart_policy,
        busy_policy=order.busy_policy,
        blocking_policy=order.blocking_policy,
        recurrence=order.recurrence,
        approvals=approvals,
    )


def _own_part(client_id: str) -> bytes:
    """What `model.names.instruction_id` puts behind the job's id."""
    return instruction_id("", client_id)[1:].encode()


def _text(envelope: bytes) -> str:
    return base64.b64encode(envelope).decode()
