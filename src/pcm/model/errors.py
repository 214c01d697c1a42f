"""Every error of the system: five roots by cause, each with a stable code, a message for people and a retry class.

    PcmError
    ├── RequestError    somebody asked for something that cannot be (bad input, contradiction, not found, not allowed)
    ├── TrustError      a signature, hash, version, recipient or expiry does not hold; never falls back, never retried blindly
    ├── TransferError   bytes did not arrive (unreachable, slow, refused, wrong length)
    ├── StoreError      this machine cannot keep what it must keep (disk full, damaged database, locked)
    └── MachineError    the operating system refused (rights, processes, folders)

Serves all twelve steps. Foreign errors (tuf, sqlite3, OSError, http) are mapped to these at one boundary each. A failing
installer is data (a run result), never one of these. Trust codes are named after the attack (TUF specification, section
1.5.2): `trust.rollback`, `trust.freeze`, `trust.mix_and_match`, `trust.wrong_recipient`, `trust.endless_data`, ...
"""

from enum import Enum
from typing import ClassVar


class Retry(Enum):
    """Whether trying the same again can help."""

    NEVER = "never"  # the request itself must change
    LATER = "later"  # the world may change: back off, try again
    ELSEWHERE = "elsewhere"  # another server or source may answer right


class PcmError(Exception):
    """Root of all errors of Package Command Manager.

    Args:
        message: For people: names the thing, the place and the remedy. One or two sentences.
        code: Stable, dotted, lower case: `trust.rollback`. Shown beside the message and kept in reports.
        retry: Whether trying again can help; each class has a default.
    """

    default_code: ClassVar[str] = "error"
    default_retry: ClassVar[Retry] = Retry.NEVER

    def __init__(self, message: str, *, code: str | None = None, retry: Retry | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.retry = retry or self.default_retry

    def __str__(self) -> str:
        return self.message


class RequestError(PcmError):
    """What was asked for cannot be done as asked. Codes: `request.*`, `not_found`, `not_allowed`, `conflict`."""

    default_code = "request.invalid"


class TrustError(PcmError):
    """A trust check failed. Nothing runs because of it, nothing falls back, no flag skips it."""

    default_code = "trust.failed"


class TransferError(PcmError):
    """Bytes did not arrive as promised."""

    default_code = "transfer.failed"
    default_retry = Retry.ELSEWHERE


class StoreError(PcmError):
    """This machine cannot keep what it must keep."""

    default_code = "store.failed"
    default_retry = Retry.LATER


class MachineError(PcmError):
    """The operating system refused something that the service needs."""

    default_code = "machine.failed"
    default_retry = Retry.LATER
