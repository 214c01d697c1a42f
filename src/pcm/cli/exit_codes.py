"""The exit codes of `pcm` and `pcmapp`'s sister programs: what a script learns without reading the message.

Serves every verb; `main` uses it at the end of each call. 0 done, 1 refused, 2 usage, 3 not found, 4 not allowed, 5 unreachable.
"""

from pcm.model.errors import PcmError, TransferError

DONE, REFUSED, USAGE, NOT_FOUND, NOT_ALLOWED, UNREACHABLE = range(6)
INTERRUPTED = 130  # as shells count SIGINT
_ABSENT = frozenset({"not_found"})
_FORBIDDEN = frozenset({"not_allowed", "unauthenticated", "request.key_exposed"})
_USAGE = frozenset({"usage"})


def exit_code(error: PcmError) -> int:
    """The exit code of an error: by its code first, then by its root."""
    if error.code in _ABSENT:
        return NOT_FOUND
    if error.code in _FORBIDDEN:
        return NOT_ALLOWED
    if error.code in _USAGE:
        return USAGE
    return UNREACHABLE if isinstance(error, TransferError) else REFUSED
