"""Matching packagers' patterns in bounded time, whatever the pattern and whatever the value.

Serves steps 2, 3 and 6, under `program.Parameter`: the pattern comes from a packager, the value from whoever orders. Python's own
matcher tries one way after the other, so a careless pattern, `(a+)+`, and a chosen value would keep it busy for years, on the
client as in the site. Here all ways are followed at once, as sets of positions, and steps are counted. Pure.

Python's parser reads the pattern, so it means what it means in Python, less what makes no regular language: back references,
looking behind, possessive and atomic groups, conditions, word boundaries, and flags but `(?s)`.
"""

import re
from collections.abc import Iterable
from re import _constants, _parser  # type: ignore[attr-defined] # CPython's; the public names for them are deprecated
from typing import Any

from pcm.model.errors import RequestError

MAX_STEPS = (
    200_000  # characters looked at: some hundredths of a second; ordinary patterns need about as many as the value has
)
MAX_NESTING = 20
_CATEGORIES = {
    _constants.CATEGORY_DIGIT: re.compile(r"\d"),
    _constants.CATEGORY_NOT_DIGIT: re.compile(r"\D"),
    _constants.CATEGORY_SPACE: re.compile(r"\s"),
    _constants.CATEGORY_NOT_SPACE: re.compile(r"\S"),
    _constants.CATEGORY_WORD: re.compile(r"\w"),
    _constants.CATEGORY_NOT_WORD: re.compile(r"\W"),
}
_ONE = (_constants.LITERAL, _constants.NOT_LITERAL, _constants.ANY, _constants.IN)
_PLACES = (
    _constants.AT_BEGINNING,
    _constants.AT_BEGINNING_STRING,
    _constants.AT_END,
    _constants.AT_END_STRING,
)
_Places = set[int]


class Pattern:
    """A pattern that a whole value must match.

    Raises:
        ValueError: it is no regular expression, or has something that cannot be matched in bounded time.
    """

    def __init__(self, text: str) -> None:
        try:
            self._tree = _parser.parse(text)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"pattern {text!r} is not a regular expression: {error}") from None
        if self._tree.state.flags & ~(re.UNICODE | re.DOTALL).value:
            raise ValueError(f"pattern {text!r} sets a flag other than (?s); write both cases, [Aa], instead of (?i)")
        self._all = bool(self._tree.state.flags & re.DOTALL.value)
        _check(self._tree, text, MAX_NESTING)

    def fits(self, value: str) -> bool:
        """Whether the whole value matches.

        Raises:
            RequestError: `request.parameter`: that takes too many steps to find out.
        """
        return len(value) in _Matching(value, self._all).after(self._tree, {0})


def _check(nodes: Iterable[Any], text: str, nesting: int) -> None:
    if nesting == 0:
        raise ValueError(f"pattern {text!r} is nested too deeply")
    for kind, what in nodes:
        if kind in _ONE or (kind is _constants.AT and what in _PLACES):
            continue
        if kind is _constants.SUBPATTERN and not what[1] and not what[2]:
            inner = [what[3]]
        elif kind is _constants.BRANCH:
            inner = what[1]
        elif kind in (_constants.MAX_REPEAT, _constants.MIN_REPEAT):
            inner = [what[2]]
        elif kind in (_constants.ASSERT, _constants.ASSERT_NOT) and what[0] > 0:
            inner = [what[1]]
        else:
            raise ValueError(
                f"pattern {text!r} has something that is not matched here: back references, looking behind, possessive and "
                "atomic groups, conditions and word boundaries are left out"
            )
        for each in inner:
            _check(each, text, nesting - 1)


class _Matching:
    """One value, and the steps that are left for it. Everywhere: places where something began → places where it can end."""

    def __init__(self, value: str, dot_is_all: bool) -> None:
        self._value = value
        self._dot_is_all = dot_is_all
        self._left = MAX_STEPS

    def after(self, nodes: Iterable[Any], starts: _Places) -> _Places:
        for kind, what in nodes:
            self._spend(1 + len(starts))
            if not starts:
                return starts
            starts = self._after_one(kind, what, starts)
        return starts

    def _after_one(self, kind: Any, what: Any, starts: _Places) -> _Places:
        if kind is _constants.ANY and self._dot_is_all:
            return {at + 1 for at in starts if at < len(self._value)}
        if kind in _ONE:
            value = self._value
            return {at + 1 for at in starts if at < len(value) and _is(kind, what, value[at])}
        if kind is _constants.SUBPATTERN:
            return self.after(what[3], starts)
        if kind is _constants.BRANCH:
            return set().union(*(self.after(branch, starts) for branch in what[1]))
        if kind is _constants.AT:
            return {at for at in starts if self._is_place(what, at)}
        if kind in (_constants.ASSERT, _constants.ASSERT_NOT):
            wanted = kind is _constants.ASSERT
            return {at for at in starts if bool(self.after(what[1], {at})) is wanted}
        return self._after_repeat(what[0], what[1], what[2], starts)

    def _after_repeat(self, least: int, most: Any, body: Any, starts: _Places) -> _Places:
        for _ in range(least):
            before = starts
            starts = self.after(body, starts)
            if starts in (before, set()):
                break  # it stays so, however often it is repeated
        ends, fresh, count = set(starts), starts, least
        while fresh and (most is _constants.MAXREPEAT or count < most):
            fresh = self.after(body, fresh) - ends
            ends |= fresh
            count += 1
        return ends

    def _is_place(self, what: Any, at: int) -> bool:
        if what in (_constants.AT_BEGINNING, _constants.AT_BEGINNING_STRING):
            return at == 0
        length = len(self._value)
        return at == length or (what is _constants.AT_END and at == length - 1 and self._value[at] == "\n")

    def _spend(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise RequestError(
                "A parameter's pattern takes too long to match; its packager must write it simpler.",
                code="request.parameter",
            )


def _is(kind: Any, what: Any, character: str) -> bool:
    if kind is _constants.LITERAL:
        return bool(ord(character) == what)
    if kind is _constants.NOT_LITERAL:
        return bool(ord(character) != what)
    if kind is _constants.ANY:
        return character != "\n"
    if kind is _constants.RANGE:
        return bool(what[0] <= ord(character) <= what[1])
    if kind is _constants.CATEGORY:
        return _CATEGORIES[what].fullmatch(character) is not None
    negated = what[0][0] is _constants.NEGATE
    return any(_is(item[0], item[1], character) for item in (what[1:] if negated else what)) is not negated
