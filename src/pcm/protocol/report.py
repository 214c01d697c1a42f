"""Status reports: what a client tells its site, numbered, chained and signed. The payload of a DSSE envelope.

Written in step 12 (`service.outbox`), taken in by `site.intake`. One result is atomic: exit code, detection and output
tail together (KB Q138241). A report is accepted if its `seq` is the next one and `prev_sha256` names the payload before it.
"""

from datetime import datetime
from typing import Annotated

import msgspec

from pcm.model.assignment import State
from pcm.model.facts import Facts
from pcm.model.instruction import Count
from pcm.model.package import Sha256
from pcm.model.schedule import check_moment
from pcm.protocol import codec

KIND = "pcm.report"
PAYLOAD_TYPE = "application/vnd.pcm.report+json"
MAX_BYTES = 512 * 2**10
MAX_ENVELOPE_BYTES = 768 * 2**10
MAX_TAIL = 8192
MAX_LEDGER_LINKS = 1000
MAX_WAYS = 16
_Text = Annotated[str, msgspec.Meta(max_length=1000)]


class ContentWay(msgspec.Struct, frozen=True, omit_defaults=True):
    """Files of a package that came by one way (`patch`, `small`, `whole`, `peer`) from one source; `bytes` is what travelled."""

    way: Annotated[str, msgspec.Meta(max_length=20)]
    source: Annotated[str, msgspec.Meta(max_length=400)]
    files: Count
    bytes: Count


class RunResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """One attempt at an instruction.

    `exit_code` None: ended by a signal, timed out or unknown. `detected` None: the program has no detection. `healthy` None: no
    health check was made. `run_as`: the user as whom it ran; empty: as system. `content`: how its package's files came, if they
    did lately; most bytes first.
    """

    run: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$(?!\n)")]
    started: datetime
    ended: datetime
    exit_code: Annotated[int, msgspec.Meta(ge=-(2**31), le=2**32 - 1)] | None = None
    exit_class: Annotated[str, msgspec.Meta(max_length=40)] = "failed"
    timed_out: bool = False
    detected: bool | None = None
    healthy: bool | None = None
    output_tail: Annotated[str, msgspec.Meta(max_length=MAX_TAIL)] = ""
    output_bytes: Count = 0
    run_as: Annotated[str, msgspec.Meta(max_length=256)] = ""
    content: Annotated[tuple[ContentWay, ...], msgspec.Meta(max_length=MAX_WAYS)] = ()

    def __post_init__(self) -> None:
        check_moment(self.started, "started")
        check_moment(self.ended, "ended")


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """A change of state of one assignment. `code` is stable (`trust.rollback`); `reason` is for people.

    `occurrence`: of a recurring order, which of its times this is about; None: it does not recur.
    """

    instruction: Annotated[str, msgspec.Meta(max_length=64)]
    job: Annotated[str, msgspec.Meta(max_length=40)]
    generation: Annotated[int, msgspec.Meta(ge=1, le=2**31)]
    state: State
    at: datetime
    code: Annotated[str, msgspec.Meta(max_length=80)] = ""
    reason: _Text = ""
    result: RunResult | None = None
    occurrence: datetime | None = None

    def __post_init__(self) -> None:
        check_moment(self.at, "at")
        if self.occurrence is not None:
            check_moment(self.occurrence, "occurrence")


class Refusal(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that was refused as a whole (an instruction file, a repository, a clock), not one instruction."""

    code: Annotated[str, msgspec.Meta(max_length=80)]
    at: datetime
    reason: _Text = ""
    source: _Text = ""
    count: Annotated[int, msgspec.Meta(ge=1, le=2**53)] = 1

    def __post_init__(self) -> None:
        check_moment(self.at, "at")


class Report(codec.Document, frozen=True, kw_only=True, omit_defaults=True, tag=KIND):
    """One status report.

    Of the client's ledger it tells how many entries there are (`ledger_total`), the hash of the last one (`ledger_head`), and by
    what each of those entered the chain that no report has told yet (`ledger_links`, oldest first, the last ones of
    `ledger_total`): with `model.ledger_chain` the site follows the chain from the head that it knows. A report may tell of the
    first entries only; then the next one tells of more.
    """

    site: Annotated[str, msgspec.Meta(max_length=63)]
    client_id: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}$(?!\n)")]
    seq: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    prev_sha256: Sha256 | None = None
    boot_id: Annotated[str, msgspec.Meta(max_length=64)]
    sent: datetime
    serial: Count = 0  # of the instruction file this client stands on
    ledger_head: Sha256 | None = None
    ledger_total: Count = 0
    ledger_links: Annotated[tuple[Sha256, ...], msgspec.Meta(max_length=MAX_LEDGER_LINKS)] = ()
    facts: Facts | None = None
    outcomes: Annotated[tuple[Outcome, ...], msgspec.Meta(max_length=1000)] = ()
    refusals: Annotated[tuple[Refusal, ...], msgspec.Meta(max_length=100)] = ()

    def __post_init__(self) -> None:
        check_moment(self.sent, "sent")
        if len(self.ledger_links) > self.ledger_total:
            raise ValueError("there are no more ledger_links than entries in the ledger")


def read_report(data: bytes) -> Report:
    """Parse a report's payload (after its signature was verified).

    Raises:
        RequestError: `protocol.*`.
    """
    return codec.decode(Report, data, max_bytes=MAX_BYTES)


def write_report(report: Report) -> bytes:
    """Bytes of a report, as signed."""
    return codec.encode(report)
