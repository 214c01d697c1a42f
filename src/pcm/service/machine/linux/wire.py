"""The D-Bus message format: values to bytes and back. Serves `linux.bus` (step 10 under systemd). Pure; no socket.

Types by signature: `y` byte, `b` bool, `n q i u x t` integers, `d` float, `s o g` text, `h` index of a passed descriptor, `a`
array (of `{..}`: a dictionary), `(..)` structure as tuple, `v` variant as a pair `(signature, value)`. Little-endian.
Source: D-Bus specification 0.43, "Type system" and "Message format".
"""

import struct
from typing import Any

_FIXED = {
    "y": (1, "<B"),
    "b": (4, "<I"),
    "n": (2, "<h"),
    "q": (2, "<H"),
    "i": (4, "<i"),
    "u": (4, "<I"),
    "x": (8, "<q"),
    "t": (8, "<Q"),
    "d": (8, "<d"),
    "h": (4, "<I"),
}
_ALIGNMENT = {code: size for code, (size, _) in _FIXED.items()} | {
    "s": 4,
    "o": 4,
    "g": 1,
    "v": 1,
    "a": 4,
    "(": 8,
    "{": 8,
}
_MAX_DEPTH = 64


class WireError(ValueError):
    """Bytes that are no message of the stated signature."""


def split_signature(signature: str) -> list[str]:
    """Split into complete types: `sa{sv}i` into `s`, `a{sv}`, `i`."""
    types, start = [], 0
    while start < len(signature):
        end = _end_of_type(signature, start, 0)
        types.append(signature[start:end])
        start = end
    return types


def _end_of_type(signature: str, start: int, depth: int) -> int:
    if depth > _MAX_DEPTH or start >= len(signature):
        raise WireError(f"bad signature {signature[:80]!r}")
    code = signature[start]
    if code == "a":
        return _end_of_type(signature, start + 1, depth + 1)
    if code in "({":
        closing, at = (")" if code == "(" else "}"), start + 1
        while at < len(signature) and signature[at] != closing:
            at = _end_of_type(signature, at, depth + 1)
        if at >= len(signature):
            raise WireError(f"bad signature {signature[:80]!r}")
        return at + 1
    if code not in _ALIGNMENT:
        raise WireError(f"bad signature {signature[:80]!r}")
    return start + 1


def pack(signature: str, values: tuple[Any, ...]) -> bytes:
    """Write values, one for each complete type."""
    buffer = bytearray()
    for kind, value in zip(split_signature(signature), values, strict=True):
        _write(buffer, kind, value)
    return bytes(buffer)


def _pad(buffer: bytearray, alignment: int) -> None:
    buffer.extend(b"\0" * (-len(buffer) % alignment))


def _write(buffer: bytearray, kind: str, value: Any) -> None:
    code = kind[0]
    _pad(buffer, _ALIGNMENT[code])
    if code in _FIXED:
        buffer += struct.pack(_FIXED[code][1], value)
    elif code in "so":
        content = value.encode()
        buffer += struct.pack("<I", len(content)) + content + b"\0"
    elif code == "g":
        content = value.encode("ascii")
        buffer += bytes([len(content)]) + content + b"\0"
    elif code == "v":
        inner, content = value
        _write(buffer, "g", inner)
        _write(buffer, inner, content)
    elif code == "a":
        _write_array(buffer, kind[1:], value)
    else:
        for inner, content in zip(split_signature(kind[1:-1]), value, strict=True):
            _write(buffer, inner, content)


def _write_array(buffer: bytearray, element: str, value: Any) -> None:
    at = len(buffer)
    buffer += b"\0\0\0\0"
    _pad(buffer, _ALIGNMENT[element[0]])
    start = len(buffer)
    for item in value.items() if element[0] == "{" else value:
        _write(buffer, element, item)
    struct.pack_into("<I", buffer, at, len(buffer) - start)


def unpack(signature: str, content: bytes) -> tuple[Any, ...]:
    """Read one value for each complete type; never more than `content` holds.

    Raises:
        WireError: the bytes do not fit the signature.
    """
    reader = _Reader(content)
    try:
        return tuple(reader.read(kind, 0) for kind in split_signature(signature))
    except (struct.error, UnicodeDecodeError, IndexError) as error:
        raise WireError(f"message body does not fit {signature[:80]!r}: {error}") from None


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def read(self, kind: str, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise WireError("nested too deeply")
        code = kind[0]
        self._at += -self._at % _ALIGNMENT[code]
        if code in _FIXED:
            size, form = _FIXED[code]
            (value,) = struct.unpack_from(form, self._content, self._at)
            self._at += size
            return bool(value) if code == "b" else value
        if code in "so":
            return self._text(self.read("u", depth))
        if code == "g":
            return self._text(self.read("y", depth))
        if code == "v":
            (inner,) = split_signature(self.read("g", depth)) or [""]
            return (inner, self.read(inner, depth + 1))
        if code == "a":
            return self._array(kind[1:], depth)
        return tuple(self.read(inner, depth + 1) for inner in split_signature(kind[1:-1]))

    def _text(self, length: int) -> str:
        end = self._at + length
        if end >= len(self._content):
            raise WireError("a text goes beyond the message")
        text = self._content[self._at : end].decode()
        self._at = end + 1
        return text

    def _array(self, element: str, depth: int) -> Any:
        length = self.read("u", depth)
        self._at += -self._at % _ALIGNMENT[element[0]]
        end = self._at + length
        if end > len(self._content):
            raise WireError("an array goes beyond the message")
        items = []
        while self._at < end:
            items.append(self.read(element, depth + 1))
        return dict(items) if element[0] == "{" else items
