"""Whether the next check may rest on this one, and until when: written at the end of a whole check, from what it has just seen.

Step 6, for the next check: after `check.Check` has asked, planned, worked and reported; before `quick_check`, which begins with
what is written here. Planning happens at every look (KB Q163488), and a note never changes that: it is only left when the plan
that was just made names the moment of its own next change, and nothing but that moment, a server's news or a change of the
database (which takes the note away) can bring it about. Who waits for anything else, for somebody to log on, say, is looked at
whole every time. Whatever is not understood here is a reason against; a note is never better than four hours.

Requests are signed ahead, each for a time of its own: a server takes one only around that time (RFC 9421, `created`), so whoever
stole the note could ask this client's logon server whether there is news until the note ends, and nothing else; and it lies
beside the private key.
"""

import os
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pcm.service import catalogue, inbox
from pcm.service.outlook import BLOCKED, LOCAL_TIME
from pcm.service.places import looked_at
from pcm.service.plan import Action, Line, Plan
from pcm.service.records import to_time
from pcm.service.rest import CONTENT, NAME, OWNER, TARGET, Rest, boot, mark_of
from pcm.transport.locations import parse_location
from pcm.transport.signing import sign_request
from pcm.trust.floors import dated_floor_s

if TYPE_CHECKING:
    from pcm.service.check import Equipment

LONGEST = timedelta(hours=4)
SIGN_EVERY_S = 480
WAKE = "wake"  # as `logon.app`
OS_RELEASE = Path("/etc/os-release")
# reasons to wait that end at the time that the line names, and those that only a change of the database can end
_FOR_A_TIME = frozenset({"wait.offer", "wait.deadline", "wait.deferred", "wait.brake", "wait.window"})
_FOR_THE_DATABASE = frozenset({"wait.request", "wait.dependency", "wait.requires", "wait.conflict"})
_OVER = frozenset({Action.DONE, Action.NOT_APPLICABLE})
_OPEN = (
    "SELECT 1 FROM runs WHERE finished = 0",
    "SELECT 1 FROM instructions WHERE state IN ('restart_pending', 'running')",
    "SELECT 1 FROM restarts WHERE ended IS NULL",
    "SELECT 1 FROM outbox WHERE acknowledged IS NULL",
    "SELECT 1 FROM outcomes WHERE reported_in IS NULL",
    "SELECT 1 FROM refusals WHERE reported_in IS NULL",
)


def leave_rest(it: "Equipment", plan: Plan, next_check_s: int) -> None:
    """Write the note for the next check, good for as long as it may be; none if the server that answered cannot be asked so.

    Called in a transaction, after everything else of the check: whoever changes the database later takes the note away.

    Args:
        plan: Made in this transaction.
        next_check_s: As the check has decided, for whatever reason.
    """
    server = it.state.meta(inbox.LAST_SERVER)
    etag = it.state.meta(inbox.ETAG + server)
    if not server.startswith(("http://", "https://")) or it.configuration.proxy or not etag:
        return
    now = it.clock()
    rest = Rest()
    until = find_until(it, plan, server, now)
    rest.written, rest.until = int(now.timestamp()), int(until.timestamp()) if until is not None else 0
    rest.boot = boot()
    rest.floor = int(dated_floor_s(it.state.floors(inbox.INSTRUCTIONS)))
    header = inbox.read_header(it.state)
    change = plan.next_change(now)
    rest.poll_after_s = header.poll_after_s if header is not None else 0
    rest.change = 0 if change is None else int(change.timestamp()) + 1
    rest.host_name = os.uname().nodename
    account = it.machine.transfer_account(it.configuration.transfer_account)
    rest.account = (account.user_id, account.group_id)
    if (
        rest.poll_after_s * 0.85 > next_check_s and rest.until
    ):  # something wants to be looked at sooner than the site asks for
        rest.until = min(rest.until, rest.written + next_check_s - 1)
        rest.change = min(rest.change or rest.until, rest.until)
    rest.marks = [(kind, mark_of(kind, path), path) for kind, path in sorted(rests_on(it))]
    _address(rest, it, server, etag)
    _sign(rest, it, server, max(rest.until, rest.written))
    try:
        _write(f"{it.places.state}/{NAME}", rest.encode())
    except (OSError, ValueError):
        return  # the next check looks at everything, as every check could


def find_until(it: "Equipment", plan: Plan, server: str, now: datetime) -> datetime | None:
    """Until when nothing but news or a change of the database can make anything due here; None: who knows."""
    state = it.state
    if any(state.rows(f"{query} LIMIT 1") for query in _OPEN) or any(it.places.staging.iterdir()):
        return None
    if any(state.meta(key) for key in (inbox.SYNC, inbox.PACKAGES_DUE, BLOCKED)):
        return None
    if not _is_first(it, server, now):
        return None
    packages = state.meta(catalogue.VALID_UNTIL)
    instructions = state.meta(inbox.VALID_UNTIL)
    if not packages or not instructions or not all(map(_rests, plan.lines)):
        return None
    change = plan.next_change(now)
    ends: list[datetime] = [
        now + LONGEST,
        to_time(instructions),
        to_time(packages) - catalogue.CLOSE,
        inbox.roots_due(state, now),
        *((change,) if change is not None else ()),
        *_expiries(plan.lines, now),
    ]
    return min(ends)


def _is_first(it: "Equipment", server: str, now: datetime) -> bool:
    """Whether the whole check would ask this server before all others, now and until somebody writes down otherwise."""
    servers = inbox.logon_servers(it.state, inbox.read_header(it.state), it.configuration)
    return servers.names[:1] == (server,) and servers.choices(now, it.network.chance)[0].server == server


def _rests(line: Line) -> bool:
    """Whether only its time, or a change of the database, can change a line of the plan."""
    if line.state is not line.record.state:
        return False
    if line.action in _OVER:
        return True
    if line.action is not Action.WAIT:
        return False
    return line.code in _FOR_THE_DATABASE or (line.until is not None and line.code in _FOR_A_TIME)


def _expiries(lines: Iterable[Line], now: datetime) -> list[datetime]:
    return [line.expires for line in lines if line.expires is not None and line.expires > now]


def rests_on(it: "Equipment") -> set[tuple[str, str]]:
    """Kind of mark and path of everything outside the database that a whole check looks at."""
    places = it.places
    marks = {(OWNER, path) for looked in looked_at(places) for path in _with_ancestors(looked)}
    contents = {
        places.configuration, places.instructions_root, places.packages_root, places.authority, places.identity,
        places.new_identity, places.state / "floors.json", Path(__file__), Path(__file__).parent, Path(__file__).parents[1],
        places.trial, places.returns,
    }  # fmt: skip
    marks |= {(CONTENT, str(path)) for path in contents}
    trusted = (Path(it.configuration.ca_file),) if it.configuration.ca_file else ()
    return marks | {(TARGET, str(path)) for path in (OS_RELEASE, LOCAL_TIME, *trusted)}


def _with_ancestors(path: Path) -> tuple[str, ...]:
    return str(path), *map(str, path.parents)


def _address(rest: Rest, it: "Equipment", server: str, etag: str) -> None:
    parts = urlsplit(server)
    rest.tls = parts.scheme == "https"
    rest.host, rest.port = parts.hostname or "", parts.port or (443 if rest.tls else 80)
    rest.authority, rest.ca_file, rest.etag = parts.netloc, it.configuration.ca_file or "", etag
    rest.poll = _target(server, f"clients/{it.identity.client_id}/timestamp.json")
    known = etag.strip('"')
    if known.isalnum() and known.isascii():
        rest.park = f"{_target(server, f'clients/{it.identity.client_id}/{WAKE}')}?known={known}"
        rest.wake_s = it.network.wake_s.get(server, 0)


def _target(server: str, name: str) -> str:
    return urlsplit(parse_location(server).join(name)).path


def _sign(rest: Rest, it: "Equipment", server: str, until: int) -> None:
    parts = urlsplit(server)
    origin = f"{parts.scheme}://{parts.netloc}"
    times = range(rest.written, until + SIGN_EVERY_S, SIGN_EVERY_S)
    rest.polls = list(_signed(it, f"{origin}{rest.poll}", times))
    if rest.wake_s:
        rest.parks = list(_signed(it, f"{origin}{rest.park}", times))


def _signed(it: "Equipment", url: str, times: Sequence[int]) -> Iterable[tuple[int, str, str]]:
    for at in times:
        moment = datetime.fromtimestamp(at, it.clock().tzinfo)
        fields = sign_request("GET", url, None, it.identity.key, it.identity.client_id, moment)
        yield at, fields["Signature-Input"], fields["Signature"]


def _write(path: str, data: bytes) -> None:
    """Whole or not at all. Not synced: after a power cut the next check looks at everything, or finds a note that still holds."""
    fresh = f"{path}.new"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)
    os.rename(fresh, path)  # noqa: PTH104
