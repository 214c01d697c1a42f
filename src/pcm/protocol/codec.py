"""Reading and writing every document: bounded in size and depth before parsing, one parser, versions checked first.

Serves steps 2, 5, 6 and 12: whatever crosses a machine boundary passes here. A document says what it is (`type`) and in which
version (`spec`, "major.minor"): an unknown major version is refused by name, unknown fields of a newer minor are ignored
(KB Q160855). A field that an old client must not ignore comes with a higher `min_client_version` or a new major version.
Trust is not decided here; that is `trust`'s work, before or around these calls.
"""

from typing import Any, TypeVar

import msgspec

from pcm.model.errors import RequestError

MAX_DEPTH = 24
SPEC_MAJOR = 1
SPEC = "1.0"

_D = TypeVar("_D", bound=msgspec.Struct)
_NOT_STRUCTURE = bytes(set(range(256)) - set(b'"[]{}'))
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_decoders: dict[type[Any], "msgspec.json.Decoder[Any]"] = {}
_encoder = msgspec.json.Encoder(order="sorted")


class _Header(msgspec.Struct):
    type: str
    spec: str


class Document(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="pcm.document"):
    """Base of all versioned documents; a subclass sets its `tag`: what `type` says."""

    # a factory, so that `omit_defaults` never leaves the version out
    spec: str = msgspec.field(default_factory=lambda: SPEC)


def decode(document: type[_D], data: bytes, *, max_bytes: int) -> _D:
    """Parse one document.

    Args:
        document: The tagged Struct to parse into; its tag says what `type` must be.
        data: UTF-8 JSON.
        max_bytes: Longer input is refused before parsing.

    Raises:
        RequestError: `protocol.too_long`, `protocol.too_deep`, `protocol.malformed`, `protocol.wrong_type`,
            `protocol.unknown_version`.
    """
    kind = str(document.__struct_config__.tag)
    check_bounds(data, kind=kind, max_bytes=max_bytes)
    header: _Header = _parse(_Header, data, kind)
    if header.type != kind:
        raise RequestError(f"Expected a {kind} document, got {header.type[:60]!r}.", code="protocol.wrong_type")
    _check_version(header.spec, kind)
    value: _D = _parse(document, data, kind)
    return value


def encode(value: Any) -> bytes:
    """Write a document or API value: UTF-8 JSON, keys sorted, no spaces: the same value always gives the same bytes."""
    return _encoder.encode(value)


def check_bounds(data: bytes, *, kind: str, max_bytes: int, max_depth: int = MAX_DEPTH) -> None:
    """Refuse input that is too long, or nested too deeply for any of our documents, before a parser sees it.

    Raises:
        RequestError: `protocol.too_long` or `protocol.too_deep`.
    """
    if len(data) > max_bytes:
        raise RequestError(
            f"A {kind} document of {len(data)} bytes is longer than {max_bytes} bytes.", code="protocol.too_long"
        )
    if data.count(b"[") + data.count(b"{") <= max_depth:
        return
    depth = 0
    for byte in _brackets(data):
        depth += 1 if byte in b"[{" else -1
        if depth > max_depth:
            raise RequestError(f"A {kind} document is nested too deeply.", code="protocol.too_deep")


def _brackets(data: bytes) -> bytes:
    """Brackets outside strings. Every pass is linear, whatever the bytes: a hostile sender chooses them before it is known."""
    if b"\\" in data:
        # a run of backslashes escapes itself two by two, so what is left of it, if anything, escapes the byte after it
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(data.translate(None, _NOT_STRUCTURE).split(b'"')[::2]).translate(None, _NOT_BRACKETS)


def parse(shape: Any, data: bytes, *, kind: str, max_bytes: int) -> Any:
    """Parse bounded JSON without a version header (API bodies). Raises like `decode`."""
    check_bounds(data, kind=kind, max_bytes=max_bytes)
    return _parse(shape, data, kind)


def _parse(shape: Any, data: bytes, kind: str) -> Any:
    decoder = _decoders.get(shape)
    if decoder is None:
        decoder = _decoders[shape] = msgspec.json.Decoder(shape)
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RequestError, RecursionError) as error:
        raise RequestError(f"A {kind} document is malformed: {error}.", code="protocol.malformed") from None


def _check_version(spec: str, kind: str) -> None:
    major, dot, minor = spec.partition(".")
    if not dot or not major.isdecimal() or not minor.isdecimal() or len(spec) > 12:
        raise RequestError(f"A {kind} document has the version {spec[:20]!r}.", code="protocol.malformed")
    if int(major) != SPEC_MAJOR:
        raise RequestError(
            f"A {kind} document has version {spec}; this program understands {SPEC_MAJOR}.x. Update the older side.",
            code="protocol.unknown_version",
        )
