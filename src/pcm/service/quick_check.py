"""A check that finds nothing new, with next to nothing loaded; where there may be more to do, the whole check does it.

Step 6, before `worker`: the supervisor starts every worker here. If the last whole check left a note (`rest`) and all that it
rests on still holds, then nothing can be due on this computer, and one question is left: does the logon server have anything
new? That is asked through a process without rights (`transport.glance`), with a request that the last check signed for about
this time. 'Not changed' ends the check. Every other answer, no answer, and the least difference in what the note rests on, lead
to `worker`, which looks at everything by itself.

Nothing is believed here that the whole check would not believe, and nothing is left out of what it would look at: checks 1 (one
instance, nothing open), 2 (the clock) and 3 (the question), and who may change the service's files. The rest of the fourteen
are about files that a 'not changed' does not bring. It reads no document, opens no database, verifies nothing and never waits
for a server longer than the glance may take.
"""

import _socket
import os
import select
import stat
import sys
import time

from pcm.service.machine import resident
from pcm.service.rest import NAME, Rest, holds, read_rest, request_of
from pcm.transport.errand import MAX_SAID, Errand, parse_said

PATIENCE_S = 25.0  # a little more than a glance gives itself
LEAST_PAUSE_S, MOST_PAUSE_S = 5, 7 * 86_400
LAST_CONTACT, LAST_CHECK = "last-contact", "last-check"  # as `inbox`, which a test compares


class Glanced:
    """What a glance brought. `status` 0: nothing. `parked`: a descriptor of a connection that waits, or -1."""

    def __init__(self, status: int, wake_s: int, parked: int) -> None:
        self.status = status
        self.wake_s = wake_s
        self.parked = parked


def main() -> int:
    """Process entry: `check` or `answer`, then perhaps `--home DIR`; written by `supervisor` alone."""
    if sys.argv[1:2] == ["check"] and not os.environ.get("PCM_FAULT"):
        home = sys.argv[3] if sys.argv[2:3] == ["--home"] else None
        done = try_quickly(*folders(home))
        if done is not None:
            return done
    from pcm.service.worker import main as work  # noqa: PLC0415 - what this module is there to avoid

    return work()


def folders(home: str | None) -> tuple[str, str]:
    """State and runtime folder, as `places.find_places` says; a test compares them."""
    return ("/var/lib/pcm", "/run/pcm") if home is None else (f"{home}/var", f"{home}/run")


def try_quickly(state: str, runtime: str) -> int | None:
    """Do the check, if this is one that has nothing to do. Returns the exit code, or None: the whole check has to look."""
    try:
        lock = resident.try_lock(f"{runtime}/pcmsvc.lock")
    except OSError:
        return None
    if lock is None:
        return None
    try:
        rest = read_rest(f"{state}/{NAME}")
        if rest is None or not is_clean(state) or not holds(rest, time.time()):
            return None
        glanced = look(rest, question=True)
        if glanced.status != 304:
            close(glanced.parked)
            return None
        for name in (LAST_CONTACT, LAST_CHECK):
            touch(f"{state}/{name}")
    except OSError:
        return None
    finally:
        os.close(lock)
    say(pause_of(rest, time.time()), wake_s=glanced.wake_s, parked=glanced.parked)
    return 0


def is_clean(state: str) -> bool:
    """Whether nobody died here in the middle of something, or is at it now."""
    try:
        log = os.stat(f"{state}/state.db-wal").st_size  # noqa: PTH116 - pathlib takes longer than all of this
    except FileNotFoundError:
        log = 0
    return not log and not os.path.lexists(f"{state}/state.db.suspect") and not os.listdir(f"{state}/staging")  # noqa: PTH208


def look(rest: Rest, *, question: bool) -> Glanced:
    """Ask the server by way of a process without rights, and leave a connection there, if it offers that.

    Args:
        question: False: only leave a connection.

    Raises:
        OSError: the process cannot be started.
    """
    now = time.time()
    asked = request_of(rest, rest.polls, rest.poll, now) if question else b""
    parking = request_of(rest, rest.parks, rest.park, now) if rest.wake_s and speaks_to_supervisor() else b""
    if not asked and (question or not parking):
        return Glanced(0, 0, -1)
    glanced = send(Errand(rest.tls, rest.host, rest.port, rest.ca_file, asked, parking), rest.account)
    return Glanced(glanced.status, glanced.wake_s or rest.wake_s, glanced.parked)


def send(errand: Errand, account: tuple[int, int]) -> Glanced:
    """Have a process without rights do an errand. Whatever it says beyond the rules is nothing.

    Raises:
        OSError: it cannot be started.
    """
    reading, writing = os.pipe()
    mine, its = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        child = resident.start_confined("pcm.transport.glance", account, reading, its.fileno())
        try:
            os.write(writing, errand.encode())  # a pipe holds more than an errand may have
            os.close(writing)
            writing = -1
            its.close()
            return listen(mine)
        finally:
            child.signal(9)
            child.reap()
    finally:
        os.close(reading)
        close(writing)
        mine.close()
        its.close()


def listen(its: _socket.socket) -> Glanced:
    """Take in what the glance says, up to its end."""
    deadline = time.monotonic() + PATIENCE_S
    poller = select.poll()
    poller.register(its, select.POLLIN)
    said, given = b"", -1
    while len(said) < MAX_SAID and poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
        try:
            more, rights, _, _ = its.recvmsg(MAX_SAID, _socket.CMSG_LEN(4), _socket.MSG_CMSG_CLOEXEC)
        except OSError:
            break
        for descriptor in resident.descriptors_in(rights):
            close(given)
            given = descriptor
        if not more:
            break
        said += more
    status, wake_s, parked = parse_said(said)
    if given >= 0 and not (parked and resident.is_tcp(given)):
        close(given)
        given = -1
    return Glanced(status, wake_s, given)


def pause_of(rest: Rest, now: float) -> int:
    """Seconds until the next check, as `check.Check` reckons: the site's interval with jitter, sooner if the plan changes."""
    wanted = rest.poll_after_s * (0.85 + int.from_bytes(os.urandom(2), "big") / 65_535 * 0.3)
    if rest.change:
        wanted = min(wanted, max(0.0, rest.change - now) + 1)
    return int(min(max(wanted, LEAST_PAUSE_S), MOST_PAUSE_S))


def say(
    next_check_s: int,
    *,
    logon: bool = False,
    contact: bool = True,
    news: bool = False,
    wake_s: int = 0,
    parked: int = -1,
) -> None:
    """Tell the supervisor how the check went, and hand it the connection that waits.

    Args:
        logon: Something waits for somebody to log on or off.
        contact: A server answered. news: it had other instructions.
        wake_s: For how long the connection may wait there.
    """
    flags = b"".join(
        b',"%s":true' % name for name, set_ in ((b"logon", logon), (b"contact", contact), (b"news", news)) if set_
    )
    line = b'{"next_check_s":%d%s,"wake_s":%d}\n' % (next_check_s, flags, wake_s)
    try:
        if parked < 0:
            os.write(1, line)
            return
        supervisor = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, os.dup(1))
        number = parked.to_bytes(4, sys.byteorder)
        supervisor.sendmsg([line], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, number)])
    except OSError:
        return  # the supervisor was stopped while a program ran; nobody needs the line any more
    finally:
        close(parked)


def speaks_to_supervisor() -> bool:
    """Whether standard output can carry a connection."""
    return stat.S_ISSOCK(os.fstat(1).st_mode)


def touch(path: str) -> None:
    """As `state.State.touch`, at this moment."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    os.utime(path)


def close(descriptor: int) -> None:
    """Close a descriptor, if there is one."""
    if descriptor >= 0:
        os.close(descriptor)
