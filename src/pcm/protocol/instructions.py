"""`instructions.json`: everything that one client should do, signed by the site's policy key. The instruction file.

Written in step 5 (`site.compile`), read in step 6 (`service.inbox`). What is absent from the newest file is withdrawn
(KB Q269768). It names servers, windows and signed programs; it carries no command line.
"""

from datetime import datetime
from typing import Annotated

import msgspec

from pcm.model.content_policy import ContentPolicy
from pcm.model.instruction import Count, Instruction
from pcm.model.schedule import Window, check_moment
from pcm.protocol import codec

KIND = "pcm.instructions"
MAX_BYTES = 8 * 2**20
Version = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
Location = Annotated[str, msgspec.Meta(min_length=1, max_length=400)]


class RepositoryFloor(msgspec.Struct, frozen=True):
    """The least versions of the package repository's roles that this site has seen: an older mirror is frozen."""

    root: Version = 1
    timestamp: Version = 1
    snapshot: Version = 1


class Servers(msgspec.Struct, frozen=True):
    """Addresses of logon and distribution servers, in the site's order of preference."""

    logon: Annotated[tuple[Location, ...], msgspec.Meta(max_length=32)] = ()
    distribution: Annotated[tuple[Location, ...], msgspec.Meta(max_length=32)] = ()


class Instructions(codec.Document, frozen=True, kw_only=True, omit_defaults=True, tag=KIND):
    """One client's instruction file. Times aware, UTC. `serial` counts up with every change of the body."""

    site: Annotated[str, msgspec.Meta(max_length=63)]
    client_id: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$(?!\n)")]
    serial: Version
    issued: datetime
    expires: datetime
    min_client_version: Annotated[str, msgspec.Meta(max_length=40)] = "0"
    package_repository_min: RepositoryFloor = RepositoryFloor()
    poll_after_s: Annotated[int, msgspec.Meta(ge=5, le=7 * 86_400)] = 1800
    windows: Annotated[tuple[Window, ...], msgspec.Meta(max_length=64)] = ()
    servers: Servers = Servers()
    content: ContentPolicy = ContentPolicy()
    acknowledged_seq: Count = 0
    instructions: Annotated[tuple[Instruction, ...], msgspec.Meta(max_length=10_000)] = ()

    def __post_init__(self) -> None:
        check_moment(self.issued, "issued")
        check_moment(self.expires, "expires")
        ids = {instruction.id for instruction in self.instructions}
        if len(ids) != len(self.instructions):
            raise ValueError("two instructions have the same id")


def read_instructions(data: bytes) -> Instructions:
    """Parse an instruction file.

    Raises:
        RequestError: `protocol.*`.
    """
    return codec.decode(Instructions, data, max_bytes=MAX_BYTES)


def write_instructions(instructions: Instructions) -> bytes:
    """Bytes of an instruction file; the same value always gives the same bytes."""
    return codec.encode(instructions)


def instructions_target(client_id: str) -> str:
    """Target path of a client's instruction file: the only target of its instruction repository."""
    return f"clients/{client_id}/instructions.json"
