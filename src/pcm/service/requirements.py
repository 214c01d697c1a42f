"""`pcmsvc check`: what the service needs on this computer, each by its name, whether it holds, and what to do if not.

Serves no step; run by hand, after installation, and by the application (KB Q169476, Q173786, Q181118). It changes nothing, asks
each server one question, and never stops at the first problem.
"""

import functools
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import NamedTuple, TypeVar

from pcm.model.errors import PcmError, TrustError
from pcm.protocol.enrolment import ClientConfiguration
from pcm.protocol.local import Requirement
from pcm.service.account import load_account
from pcm.service.configuration import load_configuration
from pcm.service.enrolment import check_root
from pcm.service.identity import Identity, load_identity
from pcm.service.inbox import read_header, read_root
from pcm.service.machine.here import missing_rights
from pcm.service.machine.interface import Machine
from pcm.service.outlook import clock_problem
from pcm.service.places import Places, find_problems
from pcm.service.share_client import ShareClient
from pcm.service.sources import MAX_TIMESTAMP, Network
from pcm.service.state import State
from pcm.service.transfer_start import TransferStart, transfer_settings
from pcm.transport.client import TransferClient
from pcm.transport.framing import Request
from pcm.transport.locations import parse_location

LEAST_FREE_BYTES = 200 * 2**20
_T = TypeVar("_T")
_AS_ADMINISTRATOR = "run it as administrator (sudo pcmsvc check)"


class _Enrolment(NamedTuple):
    configuration: ClientConfiguration
    identity: Identity


def check_requirements(
    places: Places, machine: Machine, clock: Callable[[], datetime], *, ask_servers: bool = True
) -> list[Requirement]:
    """Look at every requirement; the list is in a fixed order.

    Args:
        ask_servers: False leaves out what needs the network.
    """
    found = [_administrator(machine)]
    configuration = _try(lambda: load_configuration(places))
    found.append(
        _no("enrolled", configuration, "pcmsvc enroll --kit FILE")
        if isinstance(configuration, PcmError)
        else Requirement("enrolled", True, f"client of site {configuration.site}")
    )
    identity = _try(lambda: load_identity(places.identity))
    found.append(
        _no("key", identity, _key_remedy(identity))
        if isinstance(identity, PcmError)
        else Requirement("key", True, f"client id {identity.client_id}; readable by administrators only")
    )
    found += [_roots(places), _protected(places, machine), _clock(places, clock()), _disk(places, machine)]
    if ask_servers and not isinstance(configuration, PcmError) and not isinstance(identity, PcmError):
        found += _servers(places, machine, _Enrolment(configuration, identity), clock)
    return found


def _administrator(machine: Machine) -> Requirement:
    missing = missing_rights()
    if not machine.is_administrator():
        return Requirement(
            "administrator rights",
            False,
            "the service has no administrator rights; it can install nothing into secured folders",
            "start it as root (systemd does), or run this command with sudo",
        )
    if missing:
        return Requirement(
            "administrator rights",
            False,
            f"this is root, but without {', '.join(missing)}",
            "allow them in the unit: CapabilityBoundingSet, and AmbientCapabilities for a named account",
        )
    return Requirement("administrator rights", True, "the service may do everything on this computer")


def _roots(places: Places) -> Requirement:
    for path in (places.instructions_root, places.packages_root):
        data = _try(functools.partial(read_root, path))
        if not isinstance(data, PcmError):
            wrong = _try(functools.partial(check_root, f"The pinned root {path}", data.decode("utf-8", "replace")))
            data = wrong if isinstance(wrong, PcmError) else data
        if isinstance(data, PcmError):
            return _no("pinned roots", data, "enrol again with the administrator's kit: pcmsvc enroll --kit FILE")
    return Requirement("pinned roots", True, "of the instruction and of the package repository")


def _protected(places: Places, machine: Machine) -> Requirement:
    problems = find_problems(places, machine)
    if not problems:
        return Requirement(
            "protected folders", True, "binaries, configuration and state are writable by administrators only"
        )
    told = " ".join(problem.message for problem in problems[:5])
    more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
    return Requirement(
        "protected folders", False, told + more, "mend what is named; nothing runs as administrator until then"
    )


def _clock(places: Places, now: datetime) -> Requirement:
    if not places.database.exists():
        return Requirement("clock", True, f"{now:%Y-%m-%d %H:%M} UTC; nothing signed to compare it with yet")
    problem = _try(lambda: _clock_problem(places, now))
    if isinstance(problem, PcmError):
        return _no("clock", problem, _AS_ADMINISTRATOR)
    if problem:
        return Requirement("clock", False, problem, "set the clock (timedatectl set-ntp true)")
    return Requirement("clock", True, f"{now:%Y-%m-%d %H:%M} UTC, not behind what signed files prove")


def _clock_problem(places: Places, now: datetime) -> str:
    with State.open(places.state, now, repair=False) as state:
        problem = clock_problem(state, now)
    return "" if problem is None else problem.reason


def _disk(places: Places, machine: Machine) -> Requirement:
    free = machine.free_bytes(places.state)
    text = f"{free / 2**20:.0f} MiB free for {places.state}"
    if free < LEAST_FREE_BYTES:
        remedy = f"free at least {(LEAST_FREE_BYTES - free) / 2**20:.0f} MiB"
        return Requirement("disk space", False, text, remedy)
    return Requirement("disk space", True, text)


def _servers(
    places: Places, machine: Machine, enrolled: _Enrolment, clock: Callable[[], datetime]
) -> Iterator[Requirement]:
    configuration, identity = enrolled
    known = _try(lambda: _addresses(places, configuration, clock()))
    logon, distribution = (
        (configuration.logon, configuration.distribution) if isinstance(known, PcmError) else known
    )  # what is wrong with the database is told under its own name
    start = _try(lambda: TransferStart(machine, configuration))
    if isinstance(start, PcmError):
        yield _no("network side", start, "name another transfer_account in the kit and enrol again; or see the message")
        return
    client = ShareClient(start, transfer_settings(configuration), places, clock)
    network = Network(client, identity, clock)
    try:
        yield _network_side(client, machine)
        if any(server.startswith("smb:") for server in (*logon, *distribution)) or places.account.exists():
            yield _account(places)
        yield _any_answers(
            "logon server",
            logon,
            lambda server: _ask_logon(network, server, clock()),
            "lets this client read its instruction file",
        )
        yield _any_answers(
            "distribution server", distribution, lambda server: _ask_distribution(client, server), "answers"
        )
    finally:
        network.close()


def _addresses(
    places: Places, configuration: ClientConfiguration, now: datetime
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Those that the newest instructions name, then those of the configuration."""
    logon, distribution = configuration.logon, configuration.distribution
    if places.database.exists():
        with State.open(places.state, now, repair=False) as state:
            header = read_header(state)
        if header is not None:
            logon, distribution = (*header.servers.logon, *logon), (*header.servers.distribution, *distribution)
    return tuple(dict.fromkeys(logon)), tuple(dict.fromkeys(distribution))


def _network_side(client: TransferClient, machine: Machine) -> Requirement:
    held = _try(client.protections)
    if isinstance(held, PcmError):
        return _no("network side", held, "see the message; the service asks no network by itself")
    if not machine.is_administrator():
        return Requirement(
            "network side", False, "the transfer process runs under this same account", _AS_ADMINISTRATOR
        )
    return Requirement(
        "network side", True, f"a process of its own without rights ({', '.join(held) or 'own account'})"
    )


def _account(places: Places) -> Requirement:
    """The account for shares, as its files are; whether servers take it is told under their own names."""
    account = _try(lambda: load_account(places))
    if isinstance(account, PcmError):
        return _no("account for shares", account, "see docs/smb.md; what it names is read again at each check")
    return Requirement("account for shares", True, account.describe())


def _any_answers(name: str, servers: tuple[str, ...], ask: Callable[[str], object], does: str) -> Requirement:
    failures: list[str] = []
    refused, shares = False, all(server.startswith("smb:") for server in servers)
    for server in servers:
        answer = _try(functools.partial(ask, server))
        if not isinstance(answer, PcmError):
            also = f"; not: {'; '.join(failures)}" if failures else ""
            return Requirement(name, True, f"{server} {does}{also}")
        refused = refused or answer.code == "transfer.refused"
        failures.append(answer.message)
    remedy = (
        "give the account what the message names; pcmsvc once then tries again"
        if shares
        else "an administrator may still have to approve this client (pcm client approve), or the clock is wrong"
        if refused
        else "check the network, the address, and that the server runs"
    )
    return Requirement(name, False, "; ".join(failures) or "none is configured", remedy)


def _ask_logon(network: Network, server: str, now: datetime) -> None:
    """Whether a server has a file for this client that still holds by this clock. Read, not verified: a check does that.

    Raises:
        TransferError, TrustError.
    """
    timestamp = network.poll(server, None).timestamp or b""
    try:
        until = datetime.fromisoformat(json.loads(timestamp)["signed"]["expires"])
        over = until <= now
    except (ValueError, TypeError, KeyError, RecursionError):
        raise TrustError(f"{server} shows something else than a signed file.", code="trust.wrong_content") from None
    if over:
        raise TrustError(
            f"What {server} shows was signed until {until:%Y-%m-%d %H:%M} UTC, and it is {now:%Y-%m-%d %H:%M} UTC by this "
            "computer's clock: that is ahead, or nobody signs there any more.",
            code="trust.expired",
        )


def _ask_distribution(client: TransferClient, server: str) -> bytes:
    url = parse_location(server).join("metadata/timestamp.json")
    with client.fetch(Request(url, max_bytes=MAX_TIMESTAMP, total_s=30.0, answer_s=15.0)) as answer:
        return answer.read()


def _key_remedy(error: PcmError) -> str:
    return _AS_ADMINISTRATOR if error.code == "machine.rights" else "pcmsvc enroll --kit FILE"


def _no(name: str, error: PcmError, remedy: str) -> Requirement:
    return Requirement(name, False, error.message, remedy)


def _try(question: Callable[[], _T]) -> _T | PcmError:
    try:
        return question()
    except PcmError as error:
        return error
