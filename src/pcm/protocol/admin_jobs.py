"""The admin API's requests and answers about groups, jobs and approvals.

Serves step 3: `cli` writes them, `site.api` reads them, `site.jobs` decides. See `admin` for the rules that all of the API keeps.
"""

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from pcm.model.job import JobOrder
from pcm.model.package import Release
from pcm.protocol.admin import AssignmentView, JobState, Page, RefusalView, ResultView


class GroupOrder(msgspec.Struct, frozen=True):
    """`POST /v1/groups`, `PUT /v1/groups/{name}`. Clients by id; with kind `all` none are named.

    `revision`: of the group that this edit began with; another one by now, and it is refused (`conflict`). None: whatever it is.
    """

    name: str
    kind: Literal["all", "names"] = "names"
    clients: Annotated[tuple[str, ...], msgspec.Meta(max_length=200_000)] = ()
    revision: Annotated[int, msgspec.Meta(ge=1)] | None = None


class GroupView(msgspec.Struct, frozen=True):
    """One group; `clients` is filled only by `GET /v1/groups/{name}` and only for kind `names`."""

    name: str
    kind: str
    size: int
    clients: tuple[str, ...] = ()
    revision: int = 1


class JobRequest(msgspec.Struct, frozen=True):
    """`POST /v1/jobs`: answers 201 and a `JobView`, or with `dry_run` 200 and a `JobPlan`."""

    order: JobOrder
    dry_run: bool = False


class PlannedClient(msgspec.Struct, frozen=True):
    """One client of a plan: whether it would get the instruction, and why not."""

    client_id: str
    host_name: str
    included: bool
    reason: str = ""


class JobPlan(msgspec.Struct, frozen=True):
    """What the job would do. `clients` shows the first 1000; the counts are complete. `download_bytes`: at most, per client."""

    package: str
    version: str
    release: Release
    program: str
    argv: tuple[str, ...]
    included: int
    excluded: int
    clients: tuple[PlannedClient, ...]
    download_bytes: int
    approvals_needed: int
    notes: tuple[str, ...]


class JobView(msgspec.Struct, frozen=True):
    """`GET /v1/jobs`. `counts`: assignments by state (`cancelling` included)."""

    id: str
    state: JobState
    order: JobOrder
    package: str
    version: str
    release: Release
    program: str
    generation: int
    created: datetime
    created_by: str
    expires: datetime | None
    counts: dict[str, int]
    approvals_needed: int = 0
    approvals_given: int = 0


class JobDetail(msgspec.Struct, frozen=True):
    """`GET /v1/jobs/{id}?limit=&cursor=`: a page of assignments; the first one brings the newest 100 results and refusals."""

    job: JobView
    assignments: Page[AssignmentView]
    results: tuple[ResultView, ...]
    refusals: tuple[RefusalView, ...]


class ApprovalQuestion(msgspec.Struct, frozen=True):
    """`GET /v1/jobs/{id}/approval?emergency=`: sign `payload` (a `pcm.protocol.approval` document) as DSSE of this type."""

    payload: bytes
    payload_type: str
    needed: int
    given: tuple[str, ...]


class ApprovalOffer(msgspec.Struct, frozen=True):
    """`POST /v1/jobs/{id}/approvals`: the DSSE envelope (JSON) with one or more approvers' signatures over that payload."""

    envelope: bytes
