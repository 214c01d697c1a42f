"""Where bytes come from: logon and distribution servers, through the transfer process, each request with its limits.

Serves step 6 (instructions, package metadata, manifests), step 8 (objects) and step 12 (reports go out by the same way).
Between `inbox`, `steps/fetch` and `outbox`, which say what they want, and `pcm.transport`, which brings it. Requests that
concern this client are signed with its key. It verifies nothing, and keeps nothing but what is remembered of servers.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec

from pcm.model.errors import TransferError
from pcm.service.identity import Identity
from pcm.service.nearness import near_servers
from pcm.service.state import State
from pcm.transport.client import Response, TransferClient, code_of_status
from pcm.transport.failover import Attempt, try_each
from pcm.transport.framing import Request
from pcm.transport.health import Choice, Health, order, record_failure, record_success
from pcm.transport.locations import parse_location
from pcm.transport.signing import sign_request
from pcm.trust.codes import refuse
from pcm.trust.fetching import TOO_LONG

if TYPE_CHECKING:
    from pcm.content.assembly import Brought

LOGON = "logon"
DISTRIBUTION = "distribution"
MAX_TIMESTAMP = 4 * 2**10  # check 3
ANSWER_S = 15.0
TOTAL_S = 120.0
MAX_WAKE_S = 86_400
CLOCK_SKEW = timedelta(seconds=300)  # what servers tolerate in a signed request

_Health = dict[str, Health]
_Result = TypeVar("_Result")


class Polled(NamedTuple):
    """A logon server's answer to 'anything new?'. `timestamp` None: nothing (304). `etag`: to be sent the next time."""

    timestamp: bytes | None
    etag: str | None


class Network:
    """This client's way to its servers. Close it when the work is done.

    Args:
        client: The transfer process.
        identity: Signs requests.
        clock: Aware, UTC.
    """

    def __init__(
        self,
        client: TransferClient,
        identity: Identity,
        clock: Callable[[], datetime],
        chance: random.Random | None = None,
    ) -> None:
        self.client = client
        self._identity = identity
        self._clock = clock
        self.chance = chance or random.SystemRandom()
        self.wake_s: dict[str, int] = {}  # for how long each server that was polled lets clients wait for news

    def poll(self, server: str, etag: str | None) -> Polled:
        """Ask one logon server for this client's newest timestamp, unless it is the one known by `etag`.

        Raises:
            TransferError: as `send`; `transfer.not_found` if the server has nothing for this client.
            TrustError: `trust.endless_data`.
        """
        headers = {} if etag is None else {"If-None-Match": etag}
        url = parse_location(server).join(f"clients/{self._identity.client_id}/timestamp.json")
        request = Request(url, headers=headers, max_bytes=MAX_TIMESTAMP, answer_s=ANSWER_S, total_s=30.0)
        try:
            with self.send(request) as answer:
                self.wake_s[server] = read_wake(answer.headers.get("pcm-wake", ""))
                if answer.status == 304:
                    return Polled(None, etag)
                return Polled(answer.read(), answer.etag)
        except TransferError as error:
            if error.code == TOO_LONG:
                raise refuse("trust.endless_data", f"The server sends too much: {error.message}") from error
            raise

    def logon_files(self, server: str, timestamp: bytes | None = None) -> Callable[[str, int], Iterable[bytes]]:
        """Reader of one logon server's files for `trust`. `timestamp`: already read from it, given out once instead."""
        known = [] if timestamp is None else [timestamp]

        def fetch(name: str, max_bytes: int) -> Iterator[bytes]:
            if known and name.endswith("/timestamp.json"):
                yield known.pop()
                return
            url = parse_location(server).join(name)
            request = Request(url, max_bytes=max_bytes, answer_s=ANSWER_S, total_s=TOTAL_S)
            with self.send(request) if name.startswith("clients/") else self.client.fetch(request) as answer:
                yield from answer.iter_bytes()

        return fetch

    def public_files(self, server: str) -> Callable[[str, int], Iterable[bytes]]:
        """Reader of one server's files for `trust` that are public: all of a distribution server's, a logon server's roots."""

        def fetch(name: str, max_bytes: int) -> Iterator[bytes]:
            url = parse_location(server).join(name)
            with self.client.fetch(Request(url, max_bytes=max_bytes, answer_s=ANSWER_S, total_s=TOTAL_S)) as answer:
                yield from answer.iter_bytes()

        return fetch

    def send(self, request: Request) -> Response:
        """Send a request to a logon server, signed unless it is a directory or a share.

        Raises:
            TransferError: as `TransferClient.fetch`. A refusal (401, 403) says so if clocks differ, the commonest reason.
        """
        response = self.exchange(request)
        code = code_of_status(response.status)
        if code is None:
            return response
        reason = response.reason()
        hint = self.clock_hint(response.headers.get("date", "")) if code == "transfer.refused" else ""
        raise TransferError(f"{request.url} answered with status {response.status}{reason}.{hint}", code=code)

    def exchange(self, request: Request) -> Response:
        """Send a request to a logon server, signed unless it is a directory or a share, and return whatever status it answers.

        Raises:
            TransferError: as `TransferClient.exchange`.
        """
        if request.url.startswith("http"):
            body = request.body if request.method == "POST" else None
            proof = sign_request(
                request.method, request.url, body, self._identity.key, self._identity.client_id, self._clock()
            )
            request = request._replace(headers={**request.headers, **proof})
        return self.client.exchange(request)

    def clock_hint(self, date: str) -> str:
        """What to say if a server's Date field differs much from this clock. Unsigned: a hint for people, nothing else."""
        from email.utils import parsedate_to_datetime  # noqa: PLC0415 - 3 ms that only a refusal needs

        try:
            theirs = parsedate_to_datetime(date)
        except ValueError:
            return ""
        ours = self._clock()
        if theirs.tzinfo is None or abs(theirs - ours) <= CLOCK_SKEW:
            return ""
        return (
            f" This computer's clock says {ours.astimezone(UTC):%Y-%m-%d %H:%M} UTC, the server's "
            f"{theirs.astimezone(UTC):%Y-%m-%d %H:%M} UTC: set the clock."
        )

    def close(self) -> None:
        """End the transfer process."""
        self.client.close()


def read_wake(told: str) -> int:
    """Seconds for which a server lets clients wait for news; 0: it does not, or says something else."""
    return min(int(told), MAX_WAKE_S) if told.isascii() and told.isdigit() and len(told) < 9 else 0


class Servers:
    """The servers of one kind, and what is remembered of them between checks.

    Args:
        state: Where the memory is kept.
        kind: `LOGON` or `DISTRIBUTION`.
        ordered: As the newest verified instructions name them, in the site's order of preference.
        configured: As the client's own configuration names them: the last to be tried, and the first ever.
    """

    def __init__(self, state: State, kind: str, ordered: Sequence[str], configured: Sequence[str]) -> None:
        self._state = state
        self._key = f"servers.{kind}"
        self._ordered = tuple(ordered) or tuple(configured)
        self.names = tuple(dict.fromkeys((*self._ordered, *configured)))
        self.health: _Health = _read_health(state.meta(self._key))

    def choices(self, now: datetime, chance: random.Random) -> list[Choice]:
        """Every server in the order in which it is tried, each with its reason."""
        return order(self.names, self._ordered, self.health, now, chance, near_servers(self.names))

    def forget_refusals(self) -> None:
        """An administrator has asked for a fresh try: servers that refused this client's key are asked again."""
        self.health = {name: known for name, known in self.health.items() if not known.refused}

    def ask(
        self,
        question: Callable[[str], _Result],
        now: datetime,
        chance: random.Random,
        among: Callable[[str], bool] = bool,
    ) -> tuple[_Result, list[Attempt]]:
        """Ask one after the other until one answers; what was learnt is kept either way.

        Args:
            among: Which servers the question is for; all, if nothing is said.

        Raises:
            TransferError: none answered.
        """
        try:
            choices = [choice for choice in self.choices(now, chance) if among(choice.server)]
            return try_each(choices, question, self.health, now, chance)
        finally:
            self._keep()

    def note_transfers(self, brought: "Brought", now: datetime, chance: random.Random, *, limited: bool) -> None:
        """Learn from a fetch: who failed, and, unless policy held it back, how quick the one was that gave most.

        Args:
            limited: The rate says nothing about the servers.
        """
        blamed = {each.source: each.code for each in brought.complaints}
        for name in self.names:
            known = self.health.get(name, Health())
            if name in blamed:
                self.health[name] = record_failure(known, blamed[name], now, chance)
        if brought.traffic and brought.seconds > 0 and not limited:
            most = brought.traffic[0]
            if most.source in self.names and most.source not in blamed:
                known = self.health.get(most.source, Health())
                self.health[most.source] = record_success(known, transferred=(most.bytes, brought.seconds))
        self._keep()

    def _keep(self) -> None:
        known = {name: self.health[name] for name in self.names if name in self.health}
        text = msgspec.json.encode(_quantised(known, _read_health(self._state.meta(self._key)))).decode()
        if text != self._state.meta(self._key):
            self._state.set_meta(self._key, text, durable=False)


def end_pauses(state: State) -> None:
    """An administrator has asked for a fresh try: servers of both kinds that refused this client are asked again."""
    for kind in (LOGON, DISTRIBUTION):
        health = _read_health(state.meta(f"servers.{kind}"))
        kept = {name: known for name, known in health.items() if not known.refused}
        if kept != health:
            state.set_meta(f"servers.{kind}", msgspec.json.encode(kept).decode(), durable=False)


def _quantised(health: Mapping[str, Health], stored: Mapping[str, Health]) -> _Health:
    """With latencies to one digit, and as stored while they are about that: an idle poll on a steady line writes nothing."""
    return {
        name: known._replace(latency_s=_step(known.latency_s, stored.get(name, known).latency_s))
        for name, known in health.items()
    }


def _step(latency_s: float | None, stored_s: float | None) -> float | None:
    if latency_s is None:
        return None
    if stored_s and 0.7 < latency_s / stored_s < 1.4:
        return stored_s
    return float(f"{latency_s:.1g}")


def _read_health(text: str) -> _Health:
    try:
        return msgspec.json.decode(text, type=_Health) if text else {}
    except msgspec.DecodeError:
        return {}  # only a memory of servers: it is learnt anew
