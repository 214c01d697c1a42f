"""Canonical JSON and the signed TUF file around it, written fast.

Serves steps 2 (packages are published) and 5 (each client's instructions and leases are signed): every signature in
both repositories is made over the bytes of `encode`, and every file is laid out by `lay_out`. Comes after the values
are made, before they are stored. It never reads metadata: that is the unmodified tuf client's work
(`pcm.trust.refresh`).

Source: OLPC Canonical JSON (wiki.laptop.org/go/Canonical_JSON) as `securesystemslib.formats.encode_canonical`
verifies it: keys sorted, no white space, no floats, and in strings only backslash and quote escaped. TUF
specification 1.0.31, section 4.2.1.
"""

import json
from collections.abc import Mapping
from typing import Any

from pcm.model.errors import RequestError

_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def encode(value: Any) -> bytes:
    """Encode a value as canonical JSON in UTF-8.

    Args:
        value: str, int, bool, None, and lists, tuples and string-keyed dicts of these.

    Raises:
        RequestError: `request.canonical`: a float, a key that is no string, a lone surrogate, or a foreign type.
    """
    parts: list[str] = []
    _append(value, parts.append)
    try:
        return "".join(parts).encode()
    except UnicodeEncodeError:
        raise RequestError("A text to be signed is not valid Unicode.", code="request.canonical") from None


def _append(value: Any, put: Any) -> None:
    if isinstance(value, str):
        put(_quote(value))
    elif value is True:
        put("true")
    elif value is False:
        put("false")
    elif value is None:
        put("null")
    elif isinstance(value, int):
        put(str(value))
    elif isinstance(value, dict):
        _append_object(value, put)
    elif isinstance(value, (list, tuple)):
        put("[")
        for index, item in enumerate(value):
            if index:
                put(",")
            _append(item, put)
        put("]")
    else:
        raise RequestError(f"A {type(value).__name__} cannot be signed as canonical JSON.", code="request.canonical")


def _append_object(value: dict[Any, Any], put: Any) -> None:
    if not all(isinstance(key, str) for key in value):
        raise RequestError("Keys of a JSON object to be signed must be texts.", code="request.canonical")
    separator = "{"
    for key in sorted(value):
        put(separator)
        put(_quote(key))
        put(":")
        _append(value[key], put)
        separator = ","
    put("{}" if separator == "{" else "}")


def _quote(text: str) -> str:
    if "\\" in text or '"' in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def lay_out(signed: Mapping[str, Any], canonical: bytes, signatures: Mapping[str, str]) -> bytes:
    """Lay out a TUF metadata file: what is signed, and the signatures over it.

    Args:
        signed: The value.
        canonical: The same value as `encode` gave it.
        signatures: Key id → signature, both lower-case hex.
    """
    listed = ",".join(f'{{"keyid":"{keyid}","sig":"{sig}"}}' for keyid, sig in signatures.items())
    # Canonical JSON leaves control characters as they are, which is not JSON; only then is the value written a second time.
    body = canonical if min(canonical, default=32) >= 32 else _JSON.encode(signed).encode()
    return b'{"signatures":[' + listed.encode() + b'],"signed":' + body + b"}"
