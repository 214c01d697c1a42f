"""How a computer becomes a client: its key is made, the site is asked, and only then is anything configured.

Comes before step 6, once. The kit with both pinned roots comes from the administrator, never from a server. The request is
signed with the new key, so the site sees that whoever asks holds it; a one-time token makes it a client at once, otherwise it
waits until somebody has compared the fingerprint. Doing it again is safe: an existing key is used again, a configuration of
the same site is brought up to date, one of another site is not touched (KB Q169476, Q174648).
"""

import contextlib
import json
import os
import re
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

import msgspec

from pcm.model.errors import PcmError, RequestError, Retry, TransferError
from pcm.protocol import codec
from pcm.protocol.enrolment import (
    MAX_BYTES,
    ClientConfiguration,
    EnrolmentAnswer,
    EnrolmentRequest,
    read_configuration,
)
from pcm.service.configuration import load_configuration
from pcm.service.facts import read_facts
from pcm.service.identity import Identity, make_identity, replace_identity
from pcm.service.machine.durable import write_atomically
from pcm.service.machine.interface import Machine
from pcm.service.places import Places, create_places, require_protected
from pcm.service.sources import Network
from pcm.service.transfer_start import TransferStart, transfer_settings
from pcm.transport.client import Response, TransferClient
from pcm.transport.framing import Request
from pcm.transport.locations import parse_location

_MAX_ANSWER = 16 * 2**10
_CODE = re.compile(r"[a-z][a-z0-9_.]{0,79}\Z")


class Kit(NamedTuple):
    """What the administrator gave: configuration with pinned roots, and a token if it came along."""

    configuration: ClientConfiguration
    token: str | None


class Enrolled(NamedTuple):
    """The result. `pending`: an administrator has to compare `identity.fingerprint()` and approve."""

    identity: Identity
    pending: bool
    server: str


class _Said(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Token(msgspec.Struct):
    token: str | None = None


def read_kit(data: bytes) -> Kit:
    """Parse an enrolment kit and check all that can be checked before anything is done.

    Raises:
        RequestError: `protocol.*`, `request.location`, or `request.kit` if a root is none.
    """
    configuration = read_configuration(data)
    for address in (*configuration.logon, *configuration.distribution):
        parse_location(address)
    for name in ("instructions_root", "packages_root"):
        check_root(f"The kit's {name}", getattr(configuration, name))
    token: _Token = codec.parse(_Token, data, kind="kit", max_bytes=MAX_BYTES)
    return Kit(configuration, token.token)


def enroll(
    places: Places,
    machine: Machine,
    kit: Kit,
    token: str | None,
    clock: Callable[[], datetime],
    *,
    new_key: bool = False,
) -> Enrolled:
    """Enrol this computer, or enrol it again.

    Args:
        token: One-time token; None uses the kit's, or asks for approval.
        new_key: Become another client: the key that is here (revoked, or a copy's) is kept aside once the site took a new one.

    Raises:
        RequestError: `not_allowed` (wrong, used or expired token), `conflict` (a client of another site), what else the site
            says. TransferError: no logon server answered. MachineError, StoreError: this computer. Nothing is configured then.
    """
    check_free(places, kit.configuration)
    create_places(places)
    require_protected(places, machine)
    with machine.lock_instance(places.work_lock) if new_key else contextlib.nullcontext():
        return _enroll(places, machine, kit, token or kit.token, clock, new_key=new_key)


def _enroll(
    places: Places, machine: Machine, kit: Kit, token: str | None, clock: Callable[[], datetime], *, new_key: bool
) -> Enrolled:
    replaces = new_key and os.path.lexists(places.identity)
    with contextlib.ExitStack() as undo:
        if not os.path.lexists(places.authority):
            undo.callback(
                places.authority.unlink, missing_ok=True
            )  # a site that says no leaves nothing behind but a key
        configuration = _keep_authority(places, kit.configuration)
        identity = make_identity(places.new_identity if replaces else places.identity)
        network = Network(
            TransferClient(TransferStart(machine, configuration), transfer_settings(configuration)), identity, clock
        )
        try:
            answer, server = ask_site(network, configuration, identity, token)
        finally:
            network.close()
        undo.pop_all()
    if replaces:
        replace_identity(places.identity, places.new_identity)
    install(places, configuration)
    return Enrolled(identity, answer.state == "pending", server)


def ask_site(
    network: Network, configuration: ClientConfiguration, identity: Identity, token: str | None
) -> tuple[EnrolmentAnswer, str]:
    """Ask the logon servers in order until one has an answer.

    Returns:
        The answer and the server that gave it.

    Raises:
        RequestError: what the site says. TransferError: none answered.
    """
    request = EnrolmentRequest(
        site=configuration.site, public_key=identity.public_pem(), facts=read_facts(), token=token
    )
    body = codec.encode(request)
    failures: list[TransferError] = []
    for server in configuration.logon:
        kind = parse_location(server).kind
        if kind in ("directory", "smb"):
            what = "a directory" if kind == "directory" else "a share"
            failures.append(
                TransferError(f"{server} is {what}, which cannot enrol anybody", code="transfer.unreachable")
            )
            continue
        try:
            return _ask(network, server, body, identity), server
        except TransferError as error:
            failures.append(TransferError(f"{server}: {error.message}", code=error.code))
    told = "; ".join(error.message.rstrip(".") for error in failures)
    raise TransferError(
        f"No logon server could enrol this computer: {told}. Nothing was configured.",
        code=failures[-1].code,
        retry=Retry.LATER,
    )


def install(places: Places, configuration: ClientConfiguration) -> None:
    """Write pinned roots and configuration; the configuration last, because it makes this computer a client.

    Pinned roots of the same site are left alone: what follows from them is in the metadata, and only rises.

    Raises:
        MachineError, StoreError: they cannot be written.
    """
    for path, text in (
        (places.instructions_root, configuration.instructions_root),
        (places.packages_root, configuration.packages_root),
    ):
        if not path.exists():
            write_atomically(path, text.encode(), 0o644)
    write_atomically(places.configuration, codec.encode(configuration), 0o644)


def _keep_authority(places: Places, configuration: ClientConfiguration) -> ClientConfiguration:
    """Put the kit's authority where the network's process can read it: it is needed to ask the site at all."""
    if configuration.authority is None:
        return configuration
    write_atomically(places.authority, configuration.authority.encode(), 0o644)
    return msgspec.structs.replace(configuration, ca_file=str(places.authority))


def bring_up_to_date(places: Places, configuration: ClientConfiguration) -> None:
    """Take servers and settings from a newer kit of the same site, without asking anybody. Key and pinned roots stay.

    Raises:
        RequestError: `conflict`, `not_enrolled`. MachineError, StoreError: they cannot be written.
    """
    load_configuration(places)
    check_free(places, configuration)
    install(places, _keep_authority(places, configuration))


def check_free(places: Places, configuration: ClientConfiguration) -> None:
    """Make sure that this computer is no client of another site.

    Raises:
        RequestError: `conflict`; or `protocol.*`: the configuration that is here is damaged.
    """
    try:
        present = load_configuration(places)
    except RequestError as error:
        if error.code != "not_enrolled":
            raise
        return
    pinned = (configuration.site, configuration.instructions_root, configuration.packages_root)
    if (present.site, present.instructions_root, present.packages_root) != pinned:
        raise RequestError(
            f"This computer is a client of site {present.site!r} with other pinned roots. Remove {places.config} and "
            f"{places.state} first if it shall change its site; nothing was changed.",
            code="conflict",
        )


def check_root(name: str, text: str) -> None:
    """A look at the shape only; `trust` verifies it each time it is used.

    Raises:
        RequestError: `request.kit`, it is no root.
    """
    try:
        signed = json.loads(text)["signed"]
        if signed["_type"] == "root":
            return
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise RequestError(f"{name} is no TUF root metadata; ask the administrator for a new kit.", code="request.kit")


def _ask(network: Network, server: str, body: bytes, identity: Identity) -> EnrolmentAnswer:
    request = Request(
        parse_location(server).join("enroll"),
        method="POST",
        headers={"Content-Type": "application/json"},
        body=body,
        max_bytes=_MAX_ANSWER,
        total_s=60.0,
    )
    with network.exchange(request) as response:
        said = response.read()
        if response.status not in (200, 201, 202):
            raise _refused(network, server, response, said)
    try:
        answer: EnrolmentAnswer = codec.parse(EnrolmentAnswer, said, kind="enrolment answer", max_bytes=_MAX_ANSWER)
    except RequestError as error:
        raise TransferError(f"{server} answered with nonsense: {error.message}", code="transfer.protocol") from None
    if answer.client_id != identity.client_id:
        raise TransferError(f"{server} answered for another client than this one", code="transfer.protocol")
    return answer


def _refused(network: Network, server: str, response: Response, said: bytes) -> PcmError:
    try:
        told: _Said = codec.parse(_Said, said, kind="error", max_bytes=_MAX_ANSWER)
    except RequestError:
        told = _Said()
    message = "".join(letter for letter in told.message[:300] if letter.isprintable()).rstrip(".")
    code = told.code if _CODE.match(told.code) else ""
    if response.status >= 500 or response.status in (404, 408, 429) or not message:
        return TransferError(
            f"{server} answered with status {response.status}{f' ({message})' if message else ''}",
            code="transfer.server_error",
        )
    hint = network.clock_hint(response.headers.get("date", ""))
    return RequestError(
        f"The site does not enrol this computer: {message}.{hint} Nothing was configured.", code=code or "not_allowed"
    )
