"""One call of `pcmapp`: where the service is, where output goes, what was asked, and what a name on the command line means.

Serves steps 9 and 12, under `verbs` and `watching`. It decides nothing: who may ask what is the service's word.
"""

import argparse
import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pcm.app.columns import Screen
from pcm.app.words import OVER, changed, state_of, what
from pcm.model.errors import RequestError
from pcm.protocol import local
from pcm.protocol.printable import printable_json
from pcm.service.local_client import ask

A = TypeVar("A")
_LEAST_PREFIX = 3
_MOST_NAMED = 5


@dataclass(frozen=True)
class Call:
    """See the module's docstring."""

    socket: Path
    screen: Screen
    json: bool
    given: argparse.Namespace

    def ask(self, request: local.LocalRequest, shape: type[A]) -> A:
        """Ask the service.

        Raises:
            TransferError: `local.unreachable`, `local.impostor`.
            RequestError: what the service says; `protocol.wrong_type`: it answers something else.
        """
        answer = ask(self.socket, request)
        if not isinstance(answer, shape):
            raise RequestError("The PCM service answered something else than was asked.", code="protocol.wrong_type")
        return answer

    def print_json(self, value: Any) -> bool:
        """Print a value for programs, if that was asked for."""
        if self.json:
            self.screen.raw(printable_json(msgspec.json.format(msgspec.json.encode(value), indent=2)))
        return self.json

    def print_json_line(self, value: Any) -> bool:
        """The same in one line: one of several documents."""
        if self.json:
            self.screen.raw(printable_json(msgspec.json.encode(value)))
        return self.json

    def find(self, name: str, fits: Callable[[local.Item], bool] | None = None) -> local.Item:
        """The one item that a name means: an id, a job, a package, or the beginning of an id.

        Args:
            fits: What can be meant by an act; None for a question: of several, the one that changed last is meant.

        Raises:
            RequestError: `not_found`, with what comes near; `request.ambiguous`.
        """
        items = self.ask(local.LocalRequest("list"), local.Items).items
        found = [item for item in items if name in {item.id, item.job, item.package}]
        found = found or [item for item in items if len(name) >= _LEAST_PREFIX and item.id.startswith(name)]
        # of several, the ones that can be meant: what can be installed, what can be postponed, what is not over
        for narrower in (fits, lambda item: item.state not in OVER):
            if len(found) > 1 and narrower is not None:
                found = [item for item in found if narrower(item)] or found
        if fits is None:
            found = sorted(found, key=changed)[-1:]
        if not found:
            raise RequestError(f"There is no {name!r} here.{_near(name, items)}", code="not_found")
        if len(found) > 1 and fits is not None and not any(fits(item) for item in found):
            listed = "; ".join(f"{item.id} ({what(item)}): {state_of(item)[0]}" for item in found[:_MOST_NAMED])
            raise RequestError(f"Nothing called {name!r} waits for that now: {listed}.", code="request.ambiguous")
        if len(found) > 1:
            listed = "; ".join(f"{item.id} ({what(item)})" for item in found[:_MOST_NAMED])
            raise RequestError(f"Several are called {name!r}: say which one: {listed}", code="request.ambiguous")
        return found[0]


def _near(name: str, items: Sequence[local.Item]) -> str:
    names = sorted({item.package for item in items} | {item.job for item in items})
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    near = near or [each for each in names if len(name) >= _LEAST_PREFIX and name.lower() in each][:3]
    return f" Did you mean {' or '.join(near)}?" if near else " See: pcmapp list --all"
