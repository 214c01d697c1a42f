"""The admin API's requests and answers about content: distribution servers, what lies there, clean-up, check, statistics.

Serves step 2 from outside: `cli` asks, `site.api.content` answers. See `admin` for the rules that all of the API keeps.
"""

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from pcm.model.content_policy import ContentPolicy

MIN_GRACE_S = 3600
DEFAULT_GRACE_S = 86_400
DeliveryState = Literal["complete", "waiting", "retrying"]


class DistributionView(msgspec.Struct, frozen=True):
    """`GET /v1/distribution`: one server. `state`: in_step, behind (versions wait), or away since `away_since`.

    `home`: content comes in here. `timestamp`: of the package repository there; `newest`: the site's. `attempts` have failed one
    after another; the next is at `next_try`.
    """

    name: str
    location: str
    written_to: str | None
    home: bool
    state: str
    complete: int
    waiting: int
    timestamp: int
    newest: int
    attempts: int = 0
    next_try: datetime | None = None
    away_since: datetime | None = None
    succeeded: datetime | None = None
    error: str = ""
    error_code: str = ""


class DeliveryView(msgspec.Struct, frozen=True):
    """One version on one server; a row that stays until the version is withdrawn. `files`, `bytes`: brought there so far."""

    server: str
    package: str
    version: str
    state: DeliveryState
    complete: datetime | None
    attempts: int
    next_try: datetime | None
    files: int
    bytes: int
    changed: datetime
    error: str = ""
    error_code: str = ""


class DistributionDetail(msgspec.Struct, frozen=True):
    """`GET /v1/distribution/{server}`: with its rows, those that wait first, newest first, at most 1000."""

    server: DistributionView
    deliveries: tuple[DeliveryView, ...]


class Retried(msgspec.Struct, frozen=True):
    """Answer to `POST /v1/distribution/{server}/retry`: so many rows are tried at once."""

    rows: int


class ClearOrder(msgspec.Struct, frozen=True):
    """`POST /v1/content/gc`: begin a clean-up; `GET /v1/content/task` follows it."""

    dry_run: bool = False
    grace_s: Annotated[int, msgspec.Meta(ge=0, le=366 * 86_400)] = DEFAULT_GRACE_S


class VerifyOrder(msgspec.Struct, frozen=True):
    """`POST /v1/content/verify`: begin a check."""

    repair: bool = False


class Cleared(msgspec.Struct, frozen=True):
    """What a clean-up did at one place; bytes as packed. `young`: too young to go; `foreign`: not ours, left alone."""

    server: str
    kept: int = 0
    kept_bytes: int = 0
    removed: int = 0
    removed_bytes: int = 0
    young: int = 0
    foreign: int = 0
    examples: tuple[str, ...] = ()
    error: str = ""


class Damage(msgspec.Struct, frozen=True):
    """One object that was absent or damaged, and whether it is right again."""

    name: str
    what: str
    mended: bool


class Verified(msgspec.Struct, frozen=True):
    """What a check found at one place."""

    server: str
    objects: int
    damaged: tuple[Damage, ...] = ()
    error: str = ""


class ContentTask(msgspec.Struct, frozen=True):
    """`GET /v1/content/task`: the clean-up or check that runs, or ran last. `total` 0: not known."""

    kind: Literal["none", "gc", "verify"]
    running: bool
    started: datetime | None = None
    ended: datetime | None = None
    place: str = ""
    done: int = 0
    total: int = 0
    cleared: tuple[Cleared, ...] = ()
    verified: tuple[Verified, ...] = ()
    error: str = ""
    error_code: str = ""
    dry_run: bool = False


class ImprovementView(msgspec.Struct, frozen=True):
    """What the site makes smaller of one version, in the background. `saved`: bytes of its objects that were saved."""

    package: str
    version: str
    state: str
    attempts: int
    next_try: datetime | None
    objects_before: int
    objects_after: int
    whole: int
    patches: int
    bundles: int
    error: str = ""


class ContentStats(msgspec.Struct, frozen=True):
    """`GET /v1/content`. Bytes: `named` of all versions in force, file by file; `plain` each content once; `packed` as it lies.

    `saved`: by packing again in the background. `policy`: what clients are told.
    """

    versions: int
    files: int
    named: int
    plain: int
    objects: int
    packed: int
    bundles: int
    bundle_bytes: int
    saved: int
    improvements: tuple[ImprovementView, ...]
    improving: bool
    policy: ContentPolicy
