"""Which relative paths a package may carry: those that mean the same place on every system, below the package directory.

Serves steps 1 (`content.package_directory`), 6 (`trust.cross_check`) and 8 (`service.steps.stage`), each of which asks again:
a path is checked where it is made, where it is received, and where it is used. Nothing here touches a file system.

Source: design/trust.md, 'Executing as administrator'; reserved names after Microsoft's 'Naming Files, Paths, and Namespaces'.
"""

import unicodedata
from collections.abc import Iterable

from pcm.model.errors import RequestError

MAX_PATH_CHARACTERS = 400
MAX_COMPONENT_BYTES = 255
_RESERVED = {"con", "prn", "aux", "nul", "conin$", "conout$", "clock$"} | {
    f"{name}{digit}" for name in ("com", "lpt") for digit in "0123456789¹²³"
}
_FORBIDDEN = frozenset('\\:*?"<>|')


def check_relative_path(path: str) -> str:
    """Return `path` if it may stand in a manifest.

    Args:
        path: POSIX form, separated by '/'.

    Raises:
        RequestError: `request.path`, naming the path and the rule it breaks.
    """
    reason = _why_not(path)
    if reason is not None:
        shown = path if len(path) <= 120 else path[:120] + "…"
        raise RequestError(f"path {shown!r} is not allowed in a package: {reason}.", code="request.path")
    return path


def _why_not(path: str) -> str | None:
    if not path:
        return "it is empty"
    if len(path) > MAX_PATH_CHARACTERS:
        return f"it is longer than {MAX_PATH_CHARACTERS} characters"
    if path.startswith("/"):
        return "it is absolute"
    if unicodedata.normalize("NFC", path) != path:
        return "it is not in Unicode normalisation form C"
    for component in path.split("/"):
        reason = _component_problem(component)
        if reason is not None:
            return reason
    return None


def _component_problem(component: str) -> str | None:
    if component in {"", ".", ".."}:
        return f"it has the component {component!r}"
    try:
        if len(component.encode()) > MAX_COMPONENT_BYTES:
            return f"a component is longer than {MAX_COMPONENT_BYTES} bytes"
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    bad = next((c for c in component if c in _FORBIDDEN or unicodedata.category(c) in {"Cc", "Cf", "Cs"}), None)
    if bad is not None:
        return f"it has the character {bad!r}"
    if component[-1] in ". ":
        return "a component ends in a dot or a space"
    if component.split(".", maxsplit=1)[0].rstrip(" ").casefold() in _RESERVED:
        return f"{component!r} is a reserved name on Windows"
    return None


def check_paths(paths: Iterable[str], *, folding: bool = True) -> None:
    """Check each path, and that no two are the same file, or one the folder of another.

    Args:
        folding: Also for file systems on which `a` and `A` are the same name: those of Windows. Software for Linux alone may
            tell them apart, and some does (a kernel has `xt_DSCP.ko` and `xt_dscp.ko`).

    Raises:
        RequestError: `request.path`, naming both paths of a collision.
    """
    fold = _fold if folding else str
    seen: dict[str, str] = {}
    for path in paths:
        check_relative_path(path)
        folded = fold(path)
        if folded in seen:
            raise RequestError(
                f"paths {seen[folded]!r} and {path!r} are the same file on Windows.", code="request.path"
            )
        seen[folded] = path
    folders: dict[str, str] = {}
    for path in seen.values():
        parts = path.split("/")[:-1]
        for length in range(1, len(parts) + 1):
            folder = "/".join(parts[:length])
            folded = fold(folder)
            if folded in seen:
                raise RequestError(f"path {seen[folded]!r} is a file and, for {path!r}, a folder.", code="request.path")
            if folders.setdefault(folded, folder) != folder:
                raise RequestError(
                    f"folders {folders[folded]!r} and {folder!r} are the same folder on Windows.", code="request.path"
                )


def _fold(path: str) -> str:
    return unicodedata.normalize("NFC", path.casefold())
