"""The names of things: which strings may be a package, a version, a client id, and so on.

Serves all twelve steps. Every name that ends up in a file path, a URL or a command line is checked here first, so no other
module needs to think about separators, case or length. Nothing here reads or writes anything.
"""

import functools
import re

from pcm.model.errors import RequestError

_RULES: dict[str, tuple[re.Pattern[str], str]] = {
    "package": (re.compile(r"[a-z0-9][a-z0-9.+-]{0,99}"), "lower-case letters, digits, '.', '+', '-'; at most 100"),
    "version": (re.compile(r"[0-9A-Za-z][0-9A-Za-z.+~_-]{0,99}"), "letters, digits and '.+~_-'; at most 100"),
    "program": (re.compile(r"[a-z][a-z0-9-]{0,39}"), "lower-case letters, digits, '-'; at most 40"),
    "parameter": (re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}"), "letters, digits, '_'; at most 40"),
    "team": (re.compile(r"[a-z0-9][a-z0-9-]{0,39}"), "lower-case letters, digits, '-'; at most 40"),
    "site": (re.compile(r"[a-z0-9][a-z0-9.-]{0,62}"), "lower-case letters, digits, '.', '-'; at most 63"),
    "server": (re.compile(r"[a-z0-9][a-z0-9.-]{0,62}"), "lower-case letters, digits, '.', '-'; at most 63"),
    "group": (re.compile(r"[a-z0-9][a-z0-9._-]{0,62}"), "lower-case letters, digits, '._-'; at most 63"),
    "client": (re.compile(r"[0-9a-f]{32}"), "32 hexadecimal digits"),
    "job": (re.compile(r"j[0-9a-z]{10}"), "'j' and ten letters or digits"),
    "sha256": (re.compile(r"[0-9a-f]{64}"), "64 hexadecimal digits"),
}
_PLATFORM = re.compile(r"(linux|windows|macos)-(x86_64|arm64|any)")


@functools.lru_cache(maxsize=8192)  # of a thousand instructions each name is asked about more than once
def check_name(kind: str, value: str) -> str:
    """Return `value` if it is a well-formed name of its kind.

    Args:
        kind: One of package, version, program, parameter, team, site, server, group, client, job, sha256.
        value: What somebody gave.

    Raises:
        RequestError: `request.name`, with what was expected.
    """
    pattern, expected = _RULES[kind]
    if pattern.fullmatch(value) is None or ".." in value or (kind in {"package", "version"} and value.endswith(".")):
        shown = value if len(value) <= 60 else value[:60] + "…"
        raise RequestError(f"{kind} name {shown!r} is not allowed: expected {expected}.", code="request.name")
    return value


def check_platform(value: str) -> str:
    """Return `value` if it names a platform: `linux-x86_64`, `windows-arm64`, `linux-any`.

    Raises:
        RequestError: `request.name`.
    """
    if _PLATFORM.fullmatch(value) is None:
        raise RequestError(
            f"platform {value[:60]!r} is not known: expected linux, windows or macos, '-', then x86_64, arm64 or any.",
            code="request.name",
        )
    return value


def platform_fits(offered: str, mine: str) -> bool:
    """Tell whether a package's platform (`linux-any` included) fits a client's own, such as `linux-x86_64`."""
    system, _, machine = offered.partition("-")
    my_system, _, my_machine = mine.partition("-")
    return system == my_system and machine in {my_machine, "any"}


def instruction_id(job: str, client_id: str) -> str:
    """Name of one assignment (job × client), as a local user may send it: `j0123456789.0f1e2d3c4b5a`."""
    return f"{job}.{client_id[:12]}"
