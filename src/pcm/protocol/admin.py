"""The admin API's requests and answers: what `pcm` (and later the console) and the site say to each other under `/v1`.

Serves steps 2, 3 and 12 (results are shown). `site.api` reads the requests and writes the answers; `cli` does the opposite. This
module holds what all share, the site and its clients; `admin_packages` and `admin_jobs` the rest. Bytes (metadata, manifests,
envelopes) travel as base64 text, which is how msgspec writes `bytes`. Times are aware, UTC. Errors are `Problem` (RFC 9457).
Lists are pages: `?limit=` (1–1000, default 100) and `?cursor=` (the last page's `next`). Nothing is decided here.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Annotated, Generic, Literal, TypeVar

import msgspec

from pcm.model.content_policy import ContentPolicy

PREFIX = "/v1"
DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
MAX_REQUEST_BYTES = 2 * 2**20  # any request but the two below
MAX_PUBLICATION_BYTES = 128 * 2**20  # metadata and manifests of one publication, as base64
MAX_OBJECT_BYTES = 64 * 2**30  # one compressed object, streamed

Role = Literal["viewer", "operator", "packager", "admin"]
"""viewer reads; operator also orders jobs, groups and clients; packager also publishes (no jobs); admin may do everything."""
ClientState = Literal["pending", "enrolled", "quarantined", "revoked"]
JobState = Literal["active", "waiting_for_approval", "done", "cancelling", "cancelled", "expired"]
T = TypeVar("T")


class Problem(msgspec.Struct, frozen=True):
    """RFC 9457 problem details. `code` is the stable code of `pcm.model.errors`, for programs."""

    title: str
    status: int
    detail: str
    code: str
    type: str = "about:blank"


class Page(msgspec.Struct, Generic[T], frozen=True):
    """A part of a list. `next` is the cursor of the following part; None: this was the last."""

    items: tuple[T, ...]
    next: str | None = None


# --- the site itself ---------------------------------------------------------------------------------------------------------


class ServerView(msgspec.Struct, frozen=True):
    """One logon or distribution server, in the site's order of preference. `folder`: static, written by the site."""

    name: str
    kind: Literal["logon", "distribution"]
    location: str
    folder: str | None = None


class ExpiringRole(msgspec.Struct, frozen=True):
    """Something that keepers or a team must sign again soon: a root, the targets, a team's list."""

    repository: str
    role: str
    expires: datetime


class SiteStatus(msgspec.Struct, frozen=True):
    """`GET /v1/site`. Counts by state; `dirty`: clients with an instruction file to compile; `poison`: set-aside items.

    `expiring`: what only offline keys can renew, and runs out within `RENEW_DAYS`. `content`: what clients are told about it.
    `distribution_behind`: servers that are away, or lack something.
    """

    name: str
    version: str
    started: datetime
    uptime_s: float
    servers: tuple[ServerView, ...]
    clients: dict[str, int]
    assignments: dict[str, int]
    packages: int
    jobs: int
    dirty: int
    poison: int
    expiring: tuple[ExpiringRole, ...] = ()
    content: ContentPolicy = ContentPolicy()
    distribution_behind: tuple[str, ...] = ()


class ApiTokenRequest(msgspec.Struct, frozen=True):
    """`POST /v1/api-tokens`: a token for one person or program."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    role: Role
    expires_in_s: Annotated[int, msgspec.Meta(ge=60, le=366 * 86_400)] = 30 * 86_400


class ApiTokenAnswer(msgspec.Struct, frozen=True):
    """The token itself is shown this once."""

    id: str
    token: str
    expires: datetime


class ApiTokenView(msgspec.Struct, frozen=True):
    """`GET /v1/api-tokens`. `DELETE /v1/api-tokens/{id}` revokes."""

    id: str
    name: str
    role: Role
    created: datetime
    expires: datetime
    revoked: datetime | None = None


class AuditRow(msgspec.Struct, frozen=True):
    """`GET /v1/audit`, newest first. `sha256` covers the row and `prev_sha256`: a changed or missing row breaks the chain."""

    seq: int
    at: datetime
    actor: str
    action: str
    subject: str
    detail: str
    prev_sha256: str
    sha256: str


class KeyView(msgspec.Struct, frozen=True):
    """One public key. `name` is what people call it."""

    keyid: str
    name: str


class RoleView(msgspec.Struct, frozen=True):
    """Who signs one TUF role, and until when the newest signature holds. `version` 0: nothing signed yet (or one per client)."""

    role: str
    keys: tuple[KeyView, ...]
    threshold: int
    version: int = 0
    expires: datetime | None = None


RENEW_DAYS = 60
_RENEWED_BY_THE_SITE = {"snapshot", "timestamp"}


def expiring(repository: str, roles: Iterable[RoleView], now: datetime) -> tuple[ExpiringRole, ...]:
    """What only offline keys can renew and must, within `RENEW_DAYS` or already."""
    return tuple(
        ExpiringRole(repository, role.role, role.expires)
        for role in roles
        if role.role not in _RENEWED_BY_THE_SITE
        and role.expires is not None
        and role.expires - now < timedelta(days=RENEW_DAYS)
    )


class KeysStatus(msgspec.Struct, frozen=True):
    """`GET /v1/keys`: both repositories. The roots' bytes allow the next ceremony to start from them."""

    instructions: tuple[RoleView, ...]
    packages: tuple[RoleView, ...]
    instructions_root: bytes
    packages_root: bytes
    packages_targets: bytes
    policy: bytes


class TargetFile(msgspec.Struct, frozen=True):
    """A target's path and bytes: a manifest, or `policy/site.json`."""

    path: Annotated[str, msgspec.Meta(max_length=400)]
    body: bytes


class MetadataUpload(msgspec.Struct, frozen=True):
    """`POST /v1/metadata`: what an offline ceremony signed. `files`: new targets of the top-level targets role (the policy).

    `teams`: lists that teams whose keys change have signed anew; they count from the same moment as the new targets.
    """

    repository: Literal["instructions", "packages"]
    role: Literal["root", "targets"]
    body: bytes
    files: Annotated[tuple[TargetFile, ...], msgspec.Meta(max_length=16)] = ()
    teams: Annotated[dict[str, bytes], msgspec.Meta(max_length=1000)] = msgspec.field(default_factory=dict)


# --- clients -----------------------------------------------------------------------------------------------------------------


class EnrolmentTokenRequest(msgspec.Struct, frozen=True):
    """`POST /v1/enrolment-tokens`: for one computer, once. With a host name, for that computer only."""

    expires_in_s: Annotated[int, msgspec.Meta(ge=1, le=30 * 86_400)] = 86_400
    host_name: Annotated[str, msgspec.Meta(min_length=1, max_length=253)] | None = None


class EnrolmentTokenAnswer(msgspec.Struct, frozen=True):
    """The token is shown this once; the site keeps its hash."""

    token: str
    expires: datetime


class ClientView(msgspec.Struct, frozen=True):
    """`GET /v1/clients?state=`. `serial` is the newest instruction file's, `stands_on` the one that the client last named.

    `ledger_broken`: when a report showed a ledger that is not the one that it was, and nobody has accepted it yet.
    """

    client_id: str
    host_name: str
    state: ClientState
    platform: str
    os_name: str
    os_version: str
    agent_version: str
    created: datetime
    last_seen: datetime | None
    serial: int
    stands_on: int
    ledger_broken: datetime | None = None


class AssignmentView(msgspec.Struct, frozen=True):
    """One job on one client. `state` is a value of `pcm.model.assignment.State`, or `cancelling` until the client confirms.

    `occurrence`: which time of a recurring job it is about, by the clock of the order and written as UTC.
    """

    job: str
    client_id: str
    host_name: str
    instruction: str
    generation: int
    package: str
    version: str
    program: str
    state: str
    code: str
    reason: str
    changed: datetime
    occurrence: datetime | None = None


class ResultView(msgspec.Struct, frozen=True):
    """One run, as its client reported it: exit code, detection and output together. `run_as` empty: it ran as system."""

    run: str
    job: str
    client_id: str
    host_name: str
    generation: int
    started: datetime
    ended: datetime
    received: datetime
    exit_code: int | None
    exit_class: str
    timed_out: bool
    detected: bool | None
    output_tail: str
    output_bytes: int
    run_as: str = ""


class RefusalView(msgspec.Struct, frozen=True):
    """Something that a client refused (`trust.*`, `clock.*`), or that the site refused from it (`report.*`)."""

    client_id: str
    host_name: str
    code: str
    at: datetime
    received: datetime
    reason: str
    source: str
    count: int
    job: str | None = None


class ClientDetail(msgspec.Struct, frozen=True):
    """`GET /v1/clients/{id, unique prefix or host name}`; newest assignments and refusals first, at most 100 of each."""

    client: ClientView
    fingerprint: str
    last_seq: int
    note: str
    groups: tuple[str, ...]
    assignments: tuple[AssignmentView, ...]
    refusals: tuple[RefusalView, ...]
    ledger_total: int = 0
    ledger_head: str | None = None
    ledger_note: str = ""


class WhyLine(msgspec.Struct, frozen=True):
    """One question of the decision trace. `holds`: True, False, or None if it is only information."""

    question: str
    answer: str
    holds: bool | None = None
    code: str = ""


class Why(msgspec.Struct, frozen=True):
    """`GET /v1/clients/{id}/why?job=`: the site's half of why something did or did not run there."""

    client_id: str
    host_name: str
    job: str | None
    lines: tuple[WhyLine, ...]
