"""Ordering versions exactly as Debian's and RPM's own tools do. Serves step 11 (`detect`) and step 7 ('already there?'). Pure.

Source: deb-version(7), and dpkg's `verrevcmp`; rpm-version(7), and rpm's `rpmvercmp`. Held against `dpkg --compare-versions` by
tests, and against rpm's own test table.
"""

import re
from itertools import zip_longest
from typing import Any

_DEBIAN_PARTS = re.compile(r"([^0-9]*)([0-9]*)")
_RPM_PARTS = re.compile(r"~|\^|[0-9]+|[A-Za-z]+")


def compare_debian(left: str, right: str) -> int:
    """Order two Debian versions (`[epoch:]upstream[-revision]`): -1, 0 or 1."""
    return _sign(_debian_key(left), _debian_key(right))


def compare_rpm(installed: str, wanted: str) -> int:
    """Order two RPM versions (`[epoch:]version[-release]`): -1, 0 or 1.

    A wanted version without a release fits every release of that version, as in RPM's own dependencies.
    """
    left_epoch, left_version, left_release = _split(installed)
    right_epoch, right_version, right_release = _split(wanted)
    order = _sign(left_epoch, right_epoch) or compare_rpm_part(left_version, right_version)
    if order or not right_release or not left_release:
        return order
    return compare_rpm_part(left_release, right_release)


def compare_rpm_part(left: str, right: str) -> int:
    """Order two version or release texts as `rpmvercmp` does."""
    if left == right:
        return 0
    for mine, theirs in zip_longest(_RPM_PARTS.findall(left), _RPM_PARTS.findall(right)):
        order = _compare_segments(mine, theirs)
        if order:
            return order
    return 0


def _compare_segments(mine: str | None, theirs: str | None) -> int:
    """Compare two segments; None stands for the end. '~' comes before the end, '^' right after it, all else later."""
    for mark, present in (("~", -1), ("^", 1)):
        if mark in {mine, theirs}:
            if mine == theirs:
                return 0
            # '^' is newer than the end and older than any other segment
            other = theirs if mine == mark else mine
            rank = present if mark == "~" or other is None else -1
            return rank if mine == mark else -rank
    if mine is None or theirs is None:
        return _sign(mine is not None, theirs is not None)
    if mine[0].isdigit() != theirs[0].isdigit():
        return 1 if mine[0].isdigit() else -1  # a number is newer than letters
    return _sign(int(mine), int(theirs)) if mine[0].isdigit() else _sign(mine, theirs)


def _split(version: str) -> tuple[int, str, str]:
    """Split into epoch (0 if there is none), version, and what follows the last '-' (empty if nothing does)."""
    epoch, colon, rest = version.partition(":")
    if not (colon and epoch.isascii() and epoch.isdigit()):
        epoch, rest = "0", version
    body, dash, last = rest.rpartition("-")
    return (int(epoch), body, last) if dash else (int(epoch), rest, "")


def _debian_key(version: str) -> tuple[object, ...]:
    epoch, upstream, revision = _split(version)
    return epoch, _debian_order(upstream), _debian_order(revision)


def _debian_order(text: str) -> tuple[tuple[tuple[int, ...], int], ...]:
    # each pair of letters and number; the closing 0 makes the end of the letters sort after '~' and before all else, and the
    # closing empty pair does so for the end of the text
    # no text at all is the same as '0' (a missing revision)
    parts = [(letters, number) for letters, number in _DEBIAN_PARTS.findall(text or "0") if letters or number]
    return tuple(((*map(_debian_rank, letters), 0), int(number or 0)) for letters, number in [*parts, ("", "")])


def _debian_rank(character: str) -> int:
    if character == "~":
        return -1
    return ord(character) if character.isascii() and character.isalpha() else ord(character) + 256


def _sign(left: Any, right: Any) -> int:
    return int(left > right) - int(left < right)
