"""Text from elsewhere, made safe to show: no escape sequence, no hidden or reordering character reaches a terminal or a log.

Serves step 12 and every screen: names, reasons and installer output come from servers, packages and programs. Whoever prints them
passes them through here. Pure.
"""

import unicodedata

_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def printable(text: str, *, lines: bool = False) -> str:
    r"""Replace what is not plain text by a visible escape such as `\x1b`.

    Args:
        lines: Keep line feeds and tabs; carriage returns before line feeds are dropped.
    """
    if text.isascii() and text.isprintable():
        return text
    if lines:
        text = text.replace("\r\n", "\n")
    return "".join(c if _plain(c) or (lines and c in "\n\t") else _escaped(c) for c in text)


def _plain(character: str) -> bool:
    return unicodedata.category(character) not in _CATEGORIES


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def printable_json(data: bytes) -> str:
    r"""JSON with everything that is not plain text inside its strings as a `\u` escape, which means the same."""
    text = data.decode()
    if text.isascii():
        return text.replace("\x7f", "\\u007f")
    return "".join(c if c == "\n" or _plain(c) else _surrogates(c) for c in text)


def _surrogates(character: str) -> str:
    code = ord(character)
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
