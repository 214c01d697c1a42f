"""What one check leaves for the next: until when nothing can become due here, what that rests on, and the next questions, signed.

Serves step 6. `rest_rules` decides, at the end of a whole check, whether there is anything to leave; `quick_check` begins with it
and, if all of it still holds, has nothing to do but to ask a server whether anything is new. It is one small file that only
administrators can read or write, beside the private key whose signatures it holds. Every change of the state database takes it
away (`state.State.transaction`), so what is in it never outlives what it was made from.

It imports nothing but `os`: a check that finds nothing costs little more than this. It decides nothing itself.
"""

import os
import stat

NAME = "rest"
FORMAT = "pcm-rest 1"
MAX_BYTES = 256 * 1024
SLACK_S = 245  # between a signature's time and now: servers take 300 s, the rest is left for clocks that differ
BACK_S = 120  # how far the clock may have gone back since
ABSENT = "-"

# kinds of marks: what must be the same for a file or folder
OWNER = "owner"  # who may change it: type, mode, owner, identity
CONTENT = "content"  # that, and size and time of its last change
TARGET = "target"  # the same of what a link leads to


class Rest:
    """The note. Times in unix seconds.

    Attributes:
        written: When. until: from then on the whole check decides again; 0: it is only good for waiting at the server.
        floor: The clock must not be behind this (check 2).
        poll_after_s: The site's interval. change: when the plan changes by itself; 0: it does not.
        boot: Identity of the boot: the note is not synced, so it does not outlive a power cut. host_name: as it was reported.
        account: User and group of the network side.
        tls, host, port, ca_file, authority: The logon server to ask; `authority` as in the Host field.
        etag: Of what is known. wake_s: for how long clients may wait there; 0: not offered.
        poll, park: Targets (path and query) of both requests.
        marks: Kind, mark and path of everything that must not have changed.
        polls, parks: Time, Signature-Input and Signature of each prepared request.
    """

    def __init__(self) -> None:
        self.written = self.until = self.floor = self.poll_after_s = self.change = self.port = self.wake_s = 0
        self.boot = self.host_name = self.host = self.ca_file = self.authority = self.etag = self.poll = self.park = ""
        self.tls = False
        self.account = (0, 0)
        self.marks: list[tuple[str, str, str]] = []
        self.polls: list[tuple[int, str, str]] = []
        self.parks: list[tuple[int, str, str]] = []

    def encode(self) -> bytes:
        """As a file.

        Raises:
            ValueError: a text in it has a line end or a tabulator.
        """
        lines = [
            (FORMAT,),
            (self.written, self.until, self.floor, self.poll_after_s, self.change, self.wake_s, *self.account),
            (int(self.tls), self.port, self.host, self.ca_file, self.authority),
            (self.boot, self.host_name, self.etag, self.poll, self.park),
            *(("poll", *each) for each in self.polls),
            *(("park", *each) for each in self.parks),
            *self.marks,
            ("end",),
        ]
        texts = [[str(word) for word in line] for line in lines]
        if any(letter in word for line in texts for word in line for letter in "\n\t\0"):
            raise ValueError("a text that no line can hold")
        return os.fsencode("".join("\t".join(line) + "\n" for line in texts))


def parse_rest(data: bytes) -> Rest:
    """Read what `Rest.encode` wrote.

    Raises:
        ValueError: it is something else, or not whole.
    """
    lines = [line.split("\t") for line in os.fsdecode(data).split("\n")]
    if len(data) > MAX_BYTES or len(lines) < 6 or lines[0] != [FORMAT] or lines[-2:] != [["end"], [""]]:
        raise ValueError("no rest")
    rest = Rest()
    numbers = [int(word) for word in lines[1]]
    rest.written, rest.until, rest.floor, rest.poll_after_s, rest.change, rest.wake_s, user, group = numbers
    rest.account = (user, group)
    tls, port, rest.host, rest.ca_file, rest.authority = lines[2]
    rest.tls, rest.port = tls == "1", int(port)
    rest.boot, rest.host_name, rest.etag, rest.poll, rest.park = lines[3]
    for line in lines[4:-2]:
        if line[0] in ("poll", "park"):
            kind, at, given, signature = line
            (rest.polls if kind == "poll" else rest.parks).append((int(at), given, signature))
        else:
            kind, mark, path = line
            rest.marks.append((kind, mark, path))
    return rest


def mark_of(kind: str, path: str) -> str:
    """What must stay the same of a file or folder."""
    try:
        status = os.stat(path, follow_symlinks=kind == TARGET)  # noqa: PTH116 - pathlib takes longer to load than all of this
    except OSError:
        return ABSENT
    mark = f"{status.st_mode:o} {status.st_uid} {status.st_gid} {status.st_dev} {status.st_ino}"
    return mark if kind == OWNER else f"{mark} {status.st_size} {status.st_mtime_ns}"


def boot() -> str:
    """Identity of this boot (random(4)); empty if the system does not say, and then it is never the same."""
    try:
        descriptor = os.open("/proc/sys/kernel/random/boot_id", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(descriptor, 64).decode("ascii").strip()
    finally:
        os.close(descriptor)


def read_rest(path: str) -> Rest | None:
    """Read the note; None if there is none, if it is damaged, or if somebody else could have written it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            return None
        data = b""
        while len(data) <= MAX_BYTES and (more := os.read(descriptor, MAX_BYTES)):
            data += more
        return parse_rest(data)
    except (OSError, ValueError):
        return None
    finally:
        os.close(descriptor)


def holds(rest: Rest, now: float) -> bool:
    """Whether everything that the note rests on is still as it was, and nothing has become due."""
    if not max(rest.floor, rest.written) - BACK_S <= now < rest.until:
        return False
    if os.uname().nodename != rest.host_name or boot() != rest.boot:
        return False
    return all(mark_of(kind, path) == mark for kind, mark, path in rest.marks)


def request_of(rest: Rest, prepared: list[tuple[int, str, str]], target: str, now: float) -> bytes:
    """A whole request, signed for a time close enough to now; empty if there is none."""
    at, given, signature = min(prepared, key=lambda each: abs(each[0] - now), default=(0, "", ""))
    if abs(at - now) > SLACK_S:
        return b""
    known = f"If-None-Match: {rest.etag}\r\n" if prepared is rest.polls else ""
    return (
        f"GET {target} HTTP/1.1\r\nHost: {rest.authority}\r\nUser-Agent: pcm\r\nAccept-Encoding: identity\r\n"
        f"{known}Signature-Input: {given}\r\nSignature: {signature}\r\n\r\n"
    ).encode("ascii")
