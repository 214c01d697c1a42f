"""What the privileged side asks the transfer process, line by line.

Serves steps 6, 8 and 12: between `client` (privileged, asks) and `transfer` (unprivileged, fetches); `answers` is the way
back and shows the whole conversation. Both sides import this module and neither believes the other: each line has a largest
size, each field a type and a range. It does no I/O, and never raises anything but `TransferError` for what came from the
other side.
"""

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from pcm.model.errors import RequestError, Retry, TransferError

MAX_ASK_LINE = 64 * 1024  # request lines: a URL, a few headers
MAX_BODY = 16 * 1024 * 1024  # a request's body: reports and enrolments
MAX_URL = 8 * 1024
MAX_LOGIN = 8 * 1024  # characters of an account with its password or keys
MAX_MESSAGE = 400  # characters of an error message that travels
# What can be said about bytes that did not arrive, and whether trying again can help.
CODES: Mapping[str, Retry] = MappingProxyType(
    {
        "transfer.unreachable": Retry.ELSEWHERE,
        "transfer.certificate": Retry.ELSEWHERE,
        "transfer.refused": Retry.LATER,
        "transfer.not_found": Retry.ELSEWHERE,
        "transfer.timeout": Retry.ELSEWHERE,
        "transfer.too_slow": Retry.ELSEWHERE,
        "transfer.too_long": Retry.ELSEWHERE,
        "transfer.truncated": Retry.ELSEWHERE,
        "transfer.damaged": Retry.ELSEWHERE,
        "transfer.changed": Retry.ELSEWHERE,
        "transfer.no_ranges": Retry.ELSEWHERE,
        "transfer.redirected": Retry.ELSEWHERE,
        "transfer.server_error": Retry.ELSEWHERE,
        "transfer.protocol": Retry.ELSEWHERE,
        # of file servers, and of the account that reads them
        "transfer.no_smb": Retry.ELSEWHERE,
        "transfer.insecure": Retry.ELSEWHERE,
        "transfer.server_unknown": Retry.ELSEWHERE,
        "transfer.kdc_unreachable": Retry.LATER,
        "transfer.clock_skew": Retry.LATER,
        "transfer.no_account": Retry.LATER,
        "transfer.account_refused": Retry.LATER,
        "transfer.account_locked": Retry.LATER,
        "transfer.account_disabled": Retry.LATER,
        "transfer.account_expired": Retry.LATER,
        "transfer.account_restricted": Retry.LATER,
        "transfer.password_expired": Retry.LATER,
    }
)

# The domain or a server does not take the account: every further attempt with it may lock it (KB Q184858)
ACCOUNT_REFUSALS = frozenset(
    (
        "transfer.account_refused",
        "transfer.account_locked",
        "transfer.account_disabled",
        "transfer.account_expired",
        "transfer.account_restricted",
        "transfer.password_expired",
    )
)

STREAMED = ("raw", "object", "index")  # in bounded memory whatever their length
KINDS = (*STREAMED, "zstd", "bsdiff")
MAX_UNIT = 16 * 1024 * 1024  # plain bytes that one unit of a bundle makes
MAX_UNIT_PACKED = MAX_UNIT + (MAX_UNIT >> 7) + 64 * 1024
MAX_BASES = 32 * 1024 * 1024  # bytes that one unit is made from

_METHODS = frozenset(("GET", "HEAD", "POST", "PUT"))
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}\Z")  # RFC 9110, section 5.6.2
_HEADER_VALUE = re.compile(r"[\x20-\x7e\t]{0,4096}\Z")
_URL = re.compile(r"(?:https?|file|smb)://[\x21-\x7e]+\Z")


class Request(NamedTuple):
    """One question to a server, with every limit that its answer must keep.

    Attributes:
        url: `http://`, `https://`, `smb://` or `file:///`, ASCII, already quoted (see `locations.Location.join`).
        headers: Names to values; signing headers go here.
        body: Sent with POST and PUT, at most 16 MiB.
        max_bytes: Largest answer body in bytes as it travels.
        total_s: Seconds for everything, from look-up to last byte.
        min_rate: Bytes a second, averaged over `rate_window_s`, below which the transfer is given up. 0: no such limit.
        answer_s: Seconds within which the first byte of the answer must be there (`total_s` still holds).
        offset: Ask for the range that starts at this byte. A server that knows no ranges is read past what comes before it.
        decode: 'zstd': one zstd frame is decoded on the unprivileged side.
        max_decoded_bytes: Largest decoded body in bytes; counts only with `decode`.
        account: For `smb://` alone: the account to log on with (`smb_account.encode_login`). A secret.
        length: Ask for this many bytes from `offset` on, and no more; 0: to the end. The file may end earlier.
        have: So many bytes of that range are here already and need not travel; `Head.kept` tells whether they stay good.
        total: Length of the whole file when those came, if known; another length now means other bytes.
        max_rate: Bytes a second that may come in, on average over a second; 0: as many as can.
        part: Descriptor of a part file (see `source`) that with `decode` gets the packed bytes as they come. What it has already
            is decoded first, and the rest asked for; status 206 says that it was gone on with, 200 that it was begun anew.
        background: Let everything else on this computer go first, for as long as this transfer process lives.
    """

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = MappingProxyType({})
    body: bytes = b""
    max_bytes: int = 1024 * 1024
    total_s: float = 60.0
    min_rate: int = 128
    rate_window_s: float = 10.0
    answer_s: float = 30.0
    offset: int = 0
    decode: str | None = None
    max_decoded_bytes: int = 0
    account: str | None = None
    length: int = 0
    have: int = 0
    total: int = 0
    max_rate: int = 0
    part: int | None = None
    background: bool = False


class Unpacking(NamedTuple):
    """Something to be decoded that is here already.

    Attributes:
        kind: One of `KINDS`.
        plain_length: Exactly how many bytes come out.
    """

    kind: str
    plain_length: int


class Settings(NamedTuple):
    """How the transfer process reaches servers; from the client's configuration, never from the environment.

    Attributes:
        ca_file: PEM file of the authorities to trust for https; None: those of the system.
        proxy: `http://host:port` for all http and https requests, or None.
        no_proxy: Hosts reached directly; `.example.org` covers all hosts below it.
    """

    ca_file: str | None = None
    proxy: str | None = None
    no_proxy: tuple[str, ...] = ()


def transfer_error(code: str, message: str) -> TransferError:
    """Make the error for `code`; unknown codes (a compromised process may say anything) become `transfer.protocol`."""
    known = code if code in CODES else "transfer.protocol"
    return TransferError(printable(message, MAX_MESSAGE), code=known, retry=CODES[known])


def printable(text: str, most: int) -> str:
    """Cut `text` to `most` characters and replace what could play tricks in a terminal or a log."""
    return "".join(c if c.isprintable() else "?" for c in text[:most])


def write_line(document: Mapping[str, Any]) -> bytes:
    """One JSON object as a line."""
    return json.dumps(document, separators=(",", ":")).encode("ascii") + b"\n"


def parse_line(line: bytes) -> dict[str, Any]:
    """Read one JSON object.

    Raises:
        TransferError: `transfer.protocol`: not one line with one JSON object (too deep nesting included).
    """
    try:
        document = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise transfer_error(
            "transfer.protocol", "The other side of the transfer pipe sent a line that is not one JSON object."
        )
    return document


# ---- asking


def encode_settings(settings: Settings) -> bytes:
    """The first line of the conversation."""
    return write_line({"configure": {**settings._asdict(), "no_proxy": list(settings.no_proxy)}})


def parse_settings(line: bytes) -> Settings:
    """Read the first line.

    Raises:
        TransferError: `transfer.protocol`.
    """
    given = parse_line(line).get("configure")
    if not isinstance(given, dict):
        raise transfer_error("transfer.protocol", "The first line to the transfer process must configure it.")
    ca_file, proxy, no_proxy = given.get("ca_file"), given.get("proxy"), given.get("no_proxy", [])
    texts = [value for value in (ca_file, proxy) if value is not None]
    if not isinstance(no_proxy, list) or not all(isinstance(text, str) for text in (*texts, *no_proxy)):
        raise transfer_error(
            "transfer.protocol", "The configuration of the transfer process has a value of a wrong type."
        )
    return Settings(ca_file=ca_file, proxy=proxy, no_proxy=tuple(no_proxy))


def encode_request(request_id: int, request: Request) -> bytes:
    """The request's line and body.

    Raises:
        RequestError: `request.transfer`: the request itself cannot be sent (bad URL, header, limit).
    """
    fault = _fault(request)
    if fault:
        raise RequestError(
            f"This transfer cannot be asked for: {fault} (URL {request.url[:200]!r}).", code="request.transfer"
        )
    fields = request._asdict()
    del fields["body"]
    fields["part"] = None if request.part is None else 0  # the descriptor itself comes beside the line
    fields["headers"] = dict(request.headers)
    line = write_line({"id": request_id, "body_length": len(request.body), **fields})
    if len(line) > MAX_ASK_LINE:
        raise RequestError(
            "This transfer cannot be asked for: its URL and headers are too large.", code="request.transfer"
        )
    return line + request.body


def parse_request(line: bytes) -> tuple[int, int, Request]:
    """Read a request's line.

    Returns:
        The request's id, the length of the body that follows, the request (without its body).

    Raises:
        TransferError: `transfer.protocol`.
    """
    given = parse_line(line)
    request_id, body_length = given.pop("id", None), given.pop("body_length", None)
    try:
        request = Request(**given)
        fault = _fault(request)
    except TypeError:
        request, fault = Request(""), "a missing, unknown or wrongly typed field"
    if fault is None and not (is_count(request_id) and is_count(body_length) and body_length <= MAX_BODY):
        fault = "its id or the length of its body"
    if fault:
        raise transfer_error("transfer.protocol", f"The transfer process cannot read this request: {fault}.")
    return int(request_id), int(body_length), request


def encode_unpacking(request_id: int, unpacking: Unpacking) -> bytes:
    """The line before the extents.

    Raises:
        RequestError: `request.transfer`.
    """
    if not _can_be(unpacking):
        raise RequestError(f"This cannot be unpacked: {str(unpacking)[:200]}.", code="request.transfer")
    return write_line({"unpack": unpacking.kind, "id": request_id, "plain_length": unpacking.plain_length})


def parse_unpacking(line: bytes) -> tuple[int, Unpacking] | None:
    """Read the line before the extents; None: it is the line of a request.

    Raises:
        TransferError: `transfer.protocol`.
    """
    if not line.startswith(b'{"unpack"'):
        return None
    given = parse_line(line)
    request_id, unpacking = given.get("id"), Unpacking(given["unpack"], given.get("plain_length", -1))
    if not is_count(request_id) or not _can_be(unpacking):
        raise transfer_error("transfer.protocol", "The transfer process cannot read what it is to unpack.")
    return int(str(request_id)), unpacking


def _can_be(unpacking: Unpacking) -> bool:
    length = unpacking.plain_length
    return unpacking.kind in KINDS and is_count(length) and (unpacking.kind in STREAMED or length <= MAX_UNIT)


def is_count(value: object) -> bool:
    """Whether this is a number of bytes that can be reckoned with."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 10_000_000


def _fault(request: Request) -> str | None:
    """Name what is wrong with a request, or None. Types are looked at too: it may come from JSON."""
    times = (request.total_s, request.rate_window_s, request.answer_s)
    counts = (
        *(request.max_bytes, request.min_rate, request.offset, request.max_decoded_bytes),
        *(request.length, request.have, request.total, request.max_rate, 0 if request.part is None else request.part),
    )
    checks = {
        "the URL": isinstance(request.url, str) and len(request.url) <= MAX_URL and bool(_URL.match(request.url)),
        "the method": request.method in _METHODS,
        "a header": isinstance(request.headers, Mapping)
        and len(request.headers) <= 32
        and all(map(_is_header, request.headers.items())),
        "the body": isinstance(request.body, bytes) and len(request.body) <= MAX_BODY,
        "a time limit": all(map(_is_time, times)),
        "a size limit": all(map(is_count, counts)),
        "the account": request.account is None
        or (isinstance(request.account, str) and request.url.startswith("smb:") and len(request.account) <= MAX_LOGIN),
        "the encoding": request.decode is None
        or (request.decode == "zstd" and request.offset == 0 and request.length == 0),
        "the range": (request.method == "GET" or not (request.offset or request.length or request.have or request.part))
        and (not request.length or request.have < request.length),
        "the part": request.part is None or request.decode is not None,
        "the priority": isinstance(request.background, bool),
    }
    return next((name for name, holds in checks.items() if not holds), None)


def _is_header(item: tuple[object, object]) -> bool:
    name, value = item
    return (
        isinstance(name, str)
        and isinstance(value, str)
        and bool(_HEADER_NAME.match(name) and _HEADER_VALUE.match(value))
    )
