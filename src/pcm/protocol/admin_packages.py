"""The admin API's requests and answers about packages: publications, their objects, teams.

Serves step 2: `cli` writes them on the packager's machine, `site.api` reads them, `site.packages` decides. See `admin` for
the rules that all of the API keeps.
"""

from datetime import datetime
from typing import Annotated

import msgspec

from pcm.model.instruction import ManifestReference
from pcm.model.package import Release, Sha256
from pcm.protocol.admin import KeyView, TargetFile
from pcm.protocol.admin_content import DeliveryView

BATCH_HEADER = 40  # bytes before each object of a batch
MAX_BATCH_BYTES = 64 * 2**20


class ProgramView(msgspec.Struct, frozen=True):
    """One program of a published version."""

    name: str
    argv: tuple[str, ...]
    run_as: str
    approvals: int
    user_requestable: bool


class VersionView(msgspec.Struct, frozen=True):
    """One version of a package. `withdrawn`: when its target was removed; clients refuse it since."""

    version: str
    release: Release
    team: str
    platforms: tuple[str, ...]
    programs: tuple[ProgramView, ...]
    files: int
    bytes: int
    published: datetime
    withdrawn: datetime | None
    manifest: ManifestReference


class PackageView(msgspec.Struct, frozen=True):
    """`GET /v1/packages`: `newest` is the highest release that is not withdrawn."""

    name: str
    team: str
    summary: str
    publisher: str
    versions: int
    newest: str | None
    newest_release: int | None


class PackageDetail(msgspec.Struct, frozen=True):
    """`GET /v1/packages/{name}`: all versions, newest release first."""

    package: PackageView
    versions: tuple[VersionView, ...]


class VersionDetail(msgspec.Struct, frozen=True):
    """`GET /v1/packages/{name}/{version}`, with the manifest's bytes as signed, and where its content stands."""

    package: PackageView
    version: VersionView
    manifest: bytes
    deliveries: tuple[DeliveryView, ...] = ()


class ObjectsQuestion(msgspec.Struct, frozen=True):
    """`POST /v1/objects/missing`: SHA-256 of plain file contents."""

    sha256: Annotated[tuple[Sha256, ...], msgspec.Meta(max_length=20_000)]


class ObjectsAnswer(msgspec.Struct, frozen=True):
    """Which of them the site lacks; bring them with `PUT /v1/objects/{sha256}` (body: one zstd frame) or `POST /v1/objects`."""

    missing: tuple[str, ...]


class UploadState(msgspec.Struct, frozen=True):
    """`GET /v1/objects/{sha256}/upload`: how much of a large object an interrupted upload has brought.

    Go on with `PUT /v1/objects/{sha256}?offset=…&length=…` (length: of the plain bytes) if the last MiB of your packed bytes
    before that offset has `tail_sha256`; else begin anew.
    """

    sha256: str
    stored: bool
    received: int
    tail_sha256: str


class ObjectsStored(msgspec.Struct, frozen=True):
    """Answer to `POST /v1/objects`: so many small objects are verified and stored.

    Its body: for each, 32 bytes of SHA-256, 8 bytes (big-endian) of packed length, and the packed bytes, one zstd frame.
    """

    objects: int


class ObjectStored(msgspec.Struct, frozen=True):
    """Answer to `PUT /v1/objects/{sha256}`: verified and stored. `length`: of the plain bytes."""

    sha256: str
    length: int


class TeamView(msgspec.Struct, frozen=True):
    """`GET /v1/teams/{team}`: what the next publication builds on. `metadata` None: the team has published nothing."""

    team: str
    metadata: bytes | None
    next_version: int
    keys: tuple[KeyView, ...]
    threshold: int


class Publication(msgspec.Struct, frozen=True):
    """`POST /v1/publications`: the team's next signed targets, and the bytes of each manifest that is new in it."""

    team: str
    metadata: bytes
    manifests: Annotated[tuple[TargetFile, ...], msgspec.Meta(max_length=1000)] = ()


class PublicationAnswer(msgspec.Struct, frozen=True):
    """Target paths that became visible or were withdrawn."""

    team: str
    version: int
    published: tuple[str, ...]
    withdrawn: tuple[str, ...]
