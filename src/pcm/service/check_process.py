"""One check as the supervisor sees it: a process that ends, what it said last, and the connection that it left.

Serves step 6, between `supervisor`, which starts it and waits, and `quick_check`, which it begins with. What the worker says
is one line of a fixed form; anything else is nothing. It reads no document, and imports only what an interpreter has loaded
anyway, and `_socket`.
"""

import _socket
import os

from pcm.service.machine import resident

MOST_S = 7 * 86_400.0
_MAX_WORD = 512


class Said:
    """What came of a check.

    Attributes:
        code: Its exit code; negative: a signal.
        pause: Seconds until the next one; None: it did not say.
        logon: Something waits for somebody to log on or off.
        contact: A server answered. news: it had other instructions.
        wake_s: For how long `parked` may wait. parked: descriptor of a connection that stirs when there is news, or -1.
    """

    def __init__(self, code: int, word: bytes, parked: int) -> None:
        self.code = code
        self.pause = read_pause(word)
        self.logon, self.contact, self.news = (reads(word, name) for name in (b"logon", b"contact", b"news"))
        self.wake_s = read_wake(word)
        self.parked = parked


class CheckProcess:
    """A check that runs.

    Args:
        arguments: What leads it to the same places: `--home DIR` or nothing.

    Raises:
        OSError: it could not be started.
    """

    def __init__(self, arguments: tuple[str, ...]) -> None:
        self._word = b""
        self._parked = -1
        self._output, its = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._child = resident.start_own(
                    "pcm.service.quick_check", ("check", *arguments), nothing, its.fileno()
                )
            finally:
                os.close(nothing)
        except OSError:
            self._output.close()
            raise
        finally:
            its.close()
        self._output.setblocking(False)

    @property
    def output(self) -> int:
        """Polls readable when it says something."""
        return self._output.fileno()

    @property
    def ended(self) -> int:
        """Polls readable when it has ended."""
        return self._child.descriptor

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._child.signal(number)

    def hear(self) -> bool:
        """Take in what it says; False: it will say no more."""
        try:
            data, rights, _, _ = self._output.recvmsg(_MAX_WORD, _socket.CMSG_LEN(4), _socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            return isinstance(error, BlockingIOError)
        for descriptor in resident.descriptors_in(rights):
            self._let_go()
            self._parked = descriptor
        self._word = (self._word + data)[-_MAX_WORD:]
        return bool(data)

    def finish(self) -> Said:
        """Reap it, and tell what it said. Only after `ended`."""
        code = self._child.reap()
        self.hear()
        self._output.close()
        if self._parked >= 0 and not resident.is_tcp(self._parked):
            self._let_go()
        return Said(code, self._word, self._parked)

    def _let_go(self) -> None:
        if self._parked >= 0:
            os.close(self._parked)
            self._parked = -1


def read_pause(word: bytes) -> float | None:
    """Seconds until the next check, from a worker's last line `{"next_check_s":1800,...}`; None: it says nothing of the kind."""
    number = _number(word, b'{"next_check_s":')
    return None if number is None else min(float(number), MOST_S)


def read_wake(word: bytes) -> float:
    """For how many seconds the connection may wait that came with a worker's last line."""
    _, key, rest = _last_line(word).rpartition(b',"wake_s":')
    return min(float(_number(rest, b"") or 0), MOST_S) if key else 0.0


def reads(word: bytes, name: bytes) -> bool:
    """Whether a worker's last line has this word: `..., "logon": true`."""
    return b'"%s":true' % name in _last_line(word).replace(b" ", b"")


def _number(word: bytes, before: bytes) -> int | None:
    line = _last_line(word)
    number = line[len(before) :].partition(b",")[0].strip(b" }")
    if not line.startswith(before) or not number.isdigit() or len(number) > 9:
        return None
    return int(number)


def _last_line(word: bytes) -> bytes:
    return word.rstrip(b"\n").rpartition(b"\n")[2]
