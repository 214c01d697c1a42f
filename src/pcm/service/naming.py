"""What somebody at a shell means by a name: an id, a job, a package, or the beginning of an id. As `pcmapp` understands them.

Serves `main` (`why`, `log`) and the scripts of `completion`. Pure. It shows nobody more: it chooses among what was shown already.
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pcm.model.errors import RequestError

_LEAST_PREFIX = 3
_MOST_NAMED = 8
_WORD = re.compile(r"[A-Za-z0-9.+~_-]{1,200}")  # what a shell takes as one word, whatever a site calls its packages


class Named(NamedTuple):
    """Something that can be meant. `counts`: rather this than what does not, where a name fits several."""

    id: str
    job: str
    package: str
    told: str
    counts: bool


def choose(wanted: str, among: Sequence[Named]) -> str | None:
    """The id that is meant; `wanted` itself if it is an id or a job, None if nothing has that name.

    Raises:
        RequestError: `request.ambiguous`, with the candidates.
    """
    if any(wanted in (each.id, each.job) for each in among):
        return wanted
    found = [each for each in among if wanted == each.package]
    found = found or [each for each in among if len(wanted) >= _LEAST_PREFIX and each.id.startswith(wanted)]
    found = [each for each in found if each.counts] or found
    if len(found) > 1:
        listed = "; ".join(f"{each.id} ({each.told})" for each in found[:_MOST_NAMED])
        more = f"; and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
        raise RequestError(f"Several are called {wanted!r}: say which one: {listed}{more}", code="request.ambiguous")
    return found[0].id if found else None


def words(among: Iterable[Named]) -> list[str]:
    """What a shell may complete: packages, sorted."""
    return sorted({each.package for each in among if _WORD.fullmatch(each.package)})
