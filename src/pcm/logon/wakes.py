"""Requests that wait: a client leaves one here, and is answered when its instructions change.

Serves steps 5 and 6, inside `app`: between `leases`, which publish, and clients that would otherwise find out at their next poll.
The answer begins at once, so that the client knows that it waits, and ends when there is news, when the time is over, or when
this server stops; it says nothing, because nobody would believe it: the client then asks as always. Waiting must be cheap (a
connection, a coroutine, an entry in a table) and must never cost others their polls: places are counted, each client has one, and
of many clients with news at once some are let go a moment later.

Who publishes in this process says so (`changed`, from any thread). What others write into the folder (a share, another process)
is noticed by looking at the folders of those who wait, every `look_s` seconds.
"""

import asyncio
import contextlib
import os
import resource
from collections.abc import Callable, Mapping
from pathlib import Path

from starlette.types import Receive, Send

HOLD_S = 4 * 3600  # how long a client may wait for one answer
LOOK_S = 2.0
MOST = 20_000  # 31 KiB each, measured
SPARED_FILES = 512  # descriptors for everything that is not waiting
AT_ONCE, PAUSE_S = 50, 0.1  # clients let go together, and the pause before the next ones: 500 a second


class Wakes:
    """Everybody who waits at one logon server.

    Args:
        clients: The folder with a folder for each client.
        hold_s: Seconds until a wait ends without news.
        look_s: How often the folders of those who wait are looked at; None: never, all publishing is told to `changed`.
        most: Waiting places; fewer if this process may not open so many files.
    """

    def __init__(self, clients: Path, *, hold_s: int = HOLD_S, look_s: float | None = LOOK_S, most: int = MOST) -> None:
        self.hold_s = hold_s
        self._headers = [
            (b"cache-control", b"no-store"),
            (b"content-type", b"text/plain"),
            (b"pcm-wake", b"%d" % hold_s),
            (b"x-accel-buffering", b"no"),
        ]
        self._clients = str(clients)
        self._look_s = look_s
        self._most = min(most, max(0, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARED_FILES))
        self._waiting: dict[str, _Waiter] = {}
        self._due: dict[str, None] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._looking: asyncio.Task[None] | None = None
        self._this_round = 0
        self._round_runs = False
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def has_room(self, client_id: str) -> bool:
        """Whether this client may wait here."""
        return not self._closed and (client_id in self._waiting or len(self._waiting) < self._most)

    def changed(self, client_id: str) -> None:
        """There is news for a client. Safe from any thread; nothing happens if it does not wait."""
        loop = self._loop
        if loop is not None and client_id in self._waiting:
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile: nobody waits any more
                loop.call_soon_threadsafe(self._note, client_id)

    async def wait(self, client_id: str, is_news: Callable[[], bool], receive: Receive, send: Send) -> None:
        """Answer a request that waits: the head now, the end when there is news, time is over, or the client has gone.

        Args:
            is_news: Asked once the place is taken, so that nothing is missed in between.
        """
        waiter = self._enter(client_id)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self._headers})
            await send({"type": "http.response.body", "body": b"", "more_body": True})
            if not is_news():
                await waiter.wait(receive, self.hold_s)
        finally:
            self._leave(client_id, waiter)
        await send({"type": "http.response.body", "body": b"\n", "more_body": False})

    def close(self) -> None:
        """Let everybody go, now: this server stops. Safe from any thread."""
        self._closed = True
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._end)

    def _enter(self, client_id: str) -> "_Waiter":
        self._loop = loop = asyncio.get_running_loop()
        before = self._waiting.get(client_id)
        if before is not None:
            before.let_go()  # one place for each client: the newer request has it
        waiter = self._waiting[client_id] = _Waiter(loop.create_future(), self._state_of(client_id))
        if self._look_s is not None and (self._looking is None or self._looking.done()):
            self._looking = loop.create_task(self._look(self._look_s))
        return waiter

    def _leave(self, client_id: str, waiter: "_Waiter") -> None:
        if self._waiting.get(client_id) is waiter:
            del self._waiting[client_id]

    def _note(self, client_id: str) -> None:
        self._due[client_id] = None
        self._let_some_go()

    def _let_some_go(self) -> None:
        """Let those go who are due, as many as one round may have; the next round begins a moment later."""
        for client_id in list(self._due)[: max(0, AT_ONCE - self._this_round)]:
            del self._due[client_id]
            waiter = self._waiting.get(client_id)
            if waiter is not None:
                waiter.let_go()
                self._this_round += 1
        if self._this_round and not self._round_runs and self._loop is not None:
            self._round_runs = True
            self._loop.call_later(PAUSE_S, self._next_round)

    def _next_round(self) -> None:
        self._this_round, self._round_runs = 0, False
        self._let_some_go()

    async def _look(self, every_s: float) -> None:
        while self._waiting and not self._closed:
            await asyncio.sleep(every_s)
            seen = {client_id: waiter.seen for client_id, waiter in self._waiting.items()}
            for client_id in await asyncio.to_thread(self._differing, seen):
                self._note(client_id)

    def _differing(self, seen: Mapping[str, int]) -> list[str]:
        return [client_id for client_id, state in seen.items() if self._state_of(client_id) != state]

    def _state_of(self, client_id: str) -> int:
        try:
            return os.stat(f"{self._clients}/{client_id}").st_mtime_ns  # noqa: PTH116 - thousands of these a second
        except OSError:
            return 0

    def _end(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        for waiter in list(self._waiting.values()):
            waiter.let_go()


class _Waiter:
    """One waiting request. `seen`: the state of its client's folder when it came."""

    __slots__ = ("_over", "seen")

    def __init__(self, over: "asyncio.Future[None]", seen: int) -> None:
        self._over = over
        self.seen = seen

    def let_go(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    async def wait(self, receive: Receive, seconds: float) -> None:
        gone = asyncio.ensure_future(_until_gone(receive))
        gone.add_done_callback(lambda _: self.let_go())
        try:
            async with asyncio.timeout(seconds):
                await self._over
        except TimeoutError:
            pass  # no news, and that is how most waits end
        finally:
            gone.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
