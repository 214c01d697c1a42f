"""Trying one server after the other until one answers.

Serves steps 6, 8 and 12: between `service` (which knows the servers) and a `Source`. One that does not answer never ends the
work while another is left (KB Q191293, Q188578, Q153571). It tries each server once per call and never sleeps: back-off is
remembered in `health.Health` and waited out by the service's next round.
"""

import random
import time
from collections.abc import Callable, MutableMapping, Sequence
from datetime import datetime
from typing import NamedTuple, TypeVar

from pcm.model.errors import Retry, TransferError
from pcm.transport.framing import CODES
from pcm.transport.health import Choice, Health, record_failure, record_success

Result = TypeVar("Result")


class Attempt(NamedTuple):
    """One server tried. `code` is empty for the one that answered."""

    server: str
    reason: str
    code: str = ""
    message: str = ""


def try_each(
    choices: Sequence[Choice],
    ask: Callable[[str], Result],
    health: MutableMapping[str, Health],
    now: datetime,
    chance: random.Random,
) -> tuple[Result, list[Attempt]]:
    """Ask servers in order until one answers.

    Args:
        choices: From `health.order`.
        ask: Does the transfer with one server. Its TransferError means 'try the next'; any other error ends the search: a
            forged answer is not a reason to look for a better one here.
        health: Updated in place: latency of the one that answered, failures of the others.
        now: Aware.

    Returns:
        What `ask` returned, and each attempt up to it.

    Raises:
        TransferError: nobody answered; the code of the last server that was tried (of one that refused, if any), all of them in
            the message.
    """
    attempts: list[Attempt] = []
    for choice in choices:
        known = health.get(choice.server, Health())
        if not choice.usable:
            attempts.append(Attempt(choice.server, choice.reason, known.code or "transfer.refused", choice.reason))
            continue
        began = time.monotonic()
        try:
            result = ask(choice.server)
        except TransferError as error:
            health[choice.server] = record_failure(known, error.code, now, chance)
            attempts.append(Attempt(choice.server, choice.reason, error.code, error.message))
            continue
        health[choice.server] = record_success(known, latency_s=time.monotonic() - began)
        attempts.append(Attempt(choice.server, choice.reason))
        return result, attempts
    raise _nobody(attempts)


def _nobody(attempts: Sequence[Attempt]) -> TransferError:
    if not attempts:
        return TransferError("No server is configured.", code="transfer.unreachable")
    codes = [attempt.code for attempt in attempts]
    telling = [code for code in codes if CODES.get(code) is Retry.LATER]  # no other server helps there: somebody has to
    code = "transfer.refused" if "transfer.refused" in codes else (telling or codes[-1:])[0]
    told = "; ".join(_named(attempt) for attempt in attempts)
    return TransferError(
        (told if len(attempts) == 1 else f"None of {len(attempts)} servers helped. {told}")[:2000], code=code
    )


def _named(attempt: Attempt) -> str:
    """A message with its server, which it may name already."""
    host = attempt.server.rpartition("//")[2].partition("/")[0].partition(":")[0]
    names_it = attempt.server in attempt.message or (host and f"{host} port" in attempt.message)
    return attempt.message if names_it else f"{attempt.server}: {attempt.message}"
