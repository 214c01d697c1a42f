"""Comparing versions: the constraint grammar of detections, and an ordering for versions of unknown origin.

Serves steps 7 and 11. Debian and RPM versions are compared by their own rules in `service.machine`; this ordering is for the
rest (file versions, MSI product versions, our own agent's versions).
"""

import re

from pcm.model.errors import RequestError

_CONSTRAINT = re.compile(r"(<=|>=|<|>|=)\s*([^\s<>=]\S{0,199})")
_PART = re.compile(r"\d+|[A-Za-z]+|~")


def check_constraint(text: str) -> tuple[str, str]:
    """Split a constraint such as `>= 24.08` into its operator and its version.

    Raises:
        RequestError: `request.version`, if it is not an operator followed by one version.
    """
    match = _CONSTRAINT.fullmatch(text.strip())
    if match is None:
        raise RequestError(
            f"version constraint {text[:60]!r} is not understood: expected one of < <= = >= > and a version.",
            code="request.version",
        )
    return match.group(1), match.group(2)


def compare_versions(left: str, right: str) -> int:
    """Order two dotted versions: -1, 0 or 1.

    Numbers go by value, words by alphabet; a number is newer than a word, '~' older than nothing, and 1.0 equals 1.0.0.
    """
    mine, theirs = _PART.findall(left), _PART.findall(right)
    for index in range(max(len(mine), len(theirs))):
        a = _rank(mine[index] if index < len(mine) else None)
        b = _rank(theirs[index] if index < len(theirs) else None)
        if a != b:
            return -1 if a < b else 1
    return 0


def _rank(part: str | None) -> tuple[int, int, str]:
    if part is None:
        return (1, 0, "")
    if part == "~":
        return (0, 0, "")
    if part.isdigit():
        # a missing part equals zero, so that 1.0 and 1.0.0 are the same version
        return (3, int(part), "") if int(part) else (1, 0, "")
    return (2, 0, part.lower())


def satisfies(order: int, operator: str) -> bool:
    """Tell whether a comparison result (-1, 0, 1: installed against wanted) fits a constraint's operator."""
    return {"<": order < 0, "<=": order <= 0, "=": order == 0, ">=": order >= 0, ">": order > 0}[operator]
