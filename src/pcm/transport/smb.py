"""Fetching from shares over SMB 2 and 3, inside the transfer process: `smb://server/share/path`.

Serves steps 6 and 8, beside `web` and `folder`, with the same answers: 200, 206, 304, 404, 416. Below it stand `smb_wire`,
`kerberos` and the library `smbprotocol`, which is loaded when the first such address is asked for. It only reads, with the
account that comes with the question; sessions are signed, and encrypted where the server offers it; a session as guest is
refused. It follows no link and no DFS referral, and mounts nothing (KB Q185347, Q150727). Server names may be as long as DNS
allows (KB Q126643, Q128456, Q153249).
"""

import contextlib
import hashlib
import re
import struct
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import smbprotocol.session
import spnego
from cryptography.exceptions import InvalidTag
from smbprotocol.exceptions import SMBAuthenticationError, SMBException, SMBResponseException
from smbprotocol.open import (
    CreateDisposition,
    CreateOptions,
    FilePipePrinterAccessMask,
    ImpersonationLevel,
    Open,
    ShareAccess,
)
from smbprotocol.session import Session
from smbprotocol.tree import TreeConnect

from pcm.model.errors import TransferError
from pcm.transport.answers import Head
from pcm.transport.folder import cut_of
from pcm.transport.framing import Request, transfer_error
from pcm.transport.kerberos import Kerberos, Ticket
from pcm.transport.pace import Pace
from pcm.transport.smb_account import KERBEROS, NTLM, Login, parse_login
from pcm.transport.smb_codes import LOGON_FAILURE, NOT_THERE, SESSION_OVER, status_error
from pcm.transport.smb_wire import QuietConnection

MAX_HEAD = 512 * 1024  # bytes of everything before a file's body: negotiation, tokens, opening
MAX_SESSIONS = 8
PIECE = 1024 * 1024  # bytes in a read; larger ones are slower
_CREDIT = 64 * 1024  # bytes that one credit pays for
_PORT = 445
_END_OF_FILE, _IS_DIRECTORY, _STOPPED_ON_LINK, _NOT_COVERED = 0xC0000011, 0xC00000BA, 0x8000002D, 0xC0000257
_ODD = {
    _IS_DIRECTORY: "is not a regular file",
    _STOPPED_ON_LINK: "is a link, or lies behind one, which is not followed",
    _NOT_COVERED: "is a DFS link, which is not followed: name the server and share that it leads to",
}
_FORBIDDEN = re.compile(r'[\x00-\x1f"*/:<>?\\|]')  # [MS-FSCC] 2.1.5; a colon would open another stream of a file
# What the library raises when a server's messages make no sense
_NONSENSE = (
    SMBException,
    InvalidTag,
    struct.error,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    NotImplementedError,
)


class Place(NamedTuple):
    """A file on a share: host, port, share, and the parts of its path."""

    host: str
    port: int
    share: str
    parts: tuple[str, ...]

    @property
    def name(self) -> str:
        r"""As people write it: `\\server\share\path`."""
        return "\\\\" + "\\".join((self.host, self.share, *self.parts))


def place_of(url: str) -> Place:
    """Read an `smb://` URL.

    Raises:
        TransferError: `transfer.protocol`: no host or share, or a part that SMB cannot name.
    """
    try:
        split = urllib.parse.urlsplit(url)
        host, port = split.hostname, split.port
    except ValueError:
        split, host, port = urllib.parse.urlsplit(""), None, None
    parts = [urllib.parse.unquote(part) for part in split.path.removeprefix("/").split("/")]
    good = all(part not in ("", ".", "..") and not _FORBIDDEN.search(part) and "\ufffd" not in part for part in parts)
    if not host or "@" in split.netloc or not good or len(parts) < 2:
        raise transfer_error("transfer.protocol", f"{url} is not the URL of a file on a share.")
    return Place(host, port or _PORT, parts[0], tuple(parts[1:]))


class _Asked(NamedTuple):
    """One question."""

    place: Place
    login: Login
    request: Request
    pace: Pace


class _Connected(NamedTuple):
    """A session on a connection, and its shares by name."""

    connection: QuietConnection
    session: Any
    trees: dict[str, Any]

    def tree(self, place: Place) -> Any:
        tree = self.trees.get(place.share)
        if tree is None:
            tree = TreeConnect(self.session, f"\\\\{place.host}\\{place.share}")
            tree.connect(require_secure_negotiate=True)
            self.trees[place.share] = tree
        return tree


class _OverError(Exception):
    """The server has ended the session; a new one may do."""


class Shares:
    """All file servers, with their open sessions."""

    def __init__(self) -> None:
        self._sessions: dict[tuple[str, int, str], _Connected] = {}
        self._tickets: dict[str, Kerberos] = {}

    def open(self, request: Request, pace: Pace) -> "SmbAnswer":
        """Open the file, with the account that came with the request.

        Raises:
            TransferError: see `smb_codes`.
        """
        place, login = place_of(request.url), parse_login(request.account or "")
        if request.method not in ("GET", "HEAD"):
            raise transfer_error("transfer.protocol", f"Nothing can be sent to a share ({place.name}).")
        if login is None:
            raise transfer_error("transfer.no_account", f"No account came with the question for {place.name}.")
        asked = _Asked(place, login, request, pace)
        mark = (place.host, place.port, hashlib.sha256((request.account or "").encode()).hexdigest())
        known = self._sessions.pop(mark, None)
        if known is not None and known.connection.transport.is_quiet():
            known.connection.transport.pace = pace
            try:
                return self._answer(mark, known, asked)
            except _OverError:
                pass  # the server ended the session while nobody looked: once more, with a new one
            except TransferError as error:
                if error.code != "transfer.insecure":  # it has forgotten the session, and cannot even sign that
                    raise
        elif known is not None:
            known.connection.end()
        try:
            return self._answer(mark, self._connect(mark[2], asked), asked)
        except _OverError as error:
            raise transfer_error("transfer.unreachable", f"{place.host} ended the session at once.") from error

    def close(self) -> None:
        """Close every connection."""
        for known in self._sessions.values():
            known.connection.end()
        self._sessions.clear()

    def _answer(self, mark: tuple[str, int, str], known: _Connected, asked: _Asked) -> "SmbAnswer":
        def keep() -> None:
            while len(self._sessions) >= MAX_SESSIONS:
                self._sessions.pop(next(iter(self._sessions))).connection.end()
            self._sessions[mark] = known

        asked.pace.allow(MAX_HEAD, "transfer.protocol")
        try:
            with _mapped(asked):
                return SmbAnswer(known, asked, keep)
        except BaseException:
            known.connection.end()
            raise

    def _connect(self, account: str, asked: _Asked) -> _Connected:
        asked.pace.allow(MAX_HEAD, "transfer.protocol")
        connection = QuietConnection(uuid.uuid4(), asked.place.host, asked.place.port)
        try:
            with _mapped(asked):
                connection.open(asked.pace)
                return _Connected(connection, self._log_on(connection, account, asked), {})
        except BaseException:
            connection.end()
            raise

    def _log_on(self, connection: QuietConnection, account: str, asked: _Asked) -> Any:
        login, host = asked.login, asked.place.host
        encrypt = bool(connection.supports_encryption)
        if login.protocol == KERBEROS:
            if account not in self._tickets:
                self._tickets[account] = Kerberos(login)
            ticket = self._tickets[account].token_source(host, asked.pace)
            session = Session(connection, ticket, None, encrypt, auth_protocol=KERBEROS)
        else:
            user = f"{login.domain}\\{login.user}" if login.domain else login.user
            session = Session(connection, user, login.password, encrypt, auth_protocol=NTLM)
        try:
            session.connect()
        except SMBResponseException as error:
            if login.protocol != KERBEROS or error.status != LOGON_FAILURE:
                raise status_error(error.status, login.name, f"\\\\{host}") from error
            # the domain knows the account: it gave the ticket. It is the server that cannot read it
            raise transfer_error(
                "transfer.server_error",
                f"The file server {host} cannot read the ticket that the domain gave for it: its own password in the "
                "domain is out of step, or another computer has its name.",
            ) from error
        except SMBAuthenticationError:
            raise  # nonsense instead of a token
        except SMBException as error:
            raise transfer_error(
                "transfer.insecure",
                f"The file server {host} takes {login.name} as a guest, or protects nothing by signature: it is not believed.",
            ) from error
        return session


class SmbAnswer:
    """A file on a share, or the lack of one; an `Answer`."""

    def __init__(self, known: _Connected, asked: _Asked, keep: Callable[[], None]) -> None:
        self._asked, self._connection, self._keep = asked, known.connection, keep
        self._file = Open(known.tree(asked.place), "\\".join(asked.place.parts))
        self._at, self._left, self._finished = 0, 0, False
        self._ahead = memoryview(b"")
        try:
            self._file.create(
                ImpersonationLevel.Impersonation,
                FilePipePrinterAccessMask.FILE_READ_DATA | FilePipePrinterAccessMask.FILE_READ_ATTRIBUTES,
                0,
                ShareAccess.FILE_SHARE_READ | ShareAccess.FILE_SHARE_WRITE | ShareAccess.FILE_SHARE_DELETE,
                CreateDisposition.FILE_OPEN,
                CreateOptions.FILE_NON_DIRECTORY_FILE | CreateOptions.FILE_SEQUENTIAL_ONLY,
            )
        except SMBResponseException as error:
            if error.status not in NOT_THERE:
                raise
            self.head = Head(404, {})
            self._finish()
            return
        self.head = self._look()
        if self.head.status not in (200, 206) or asked.request.method == "HEAD":
            self._left = 0
        asked.pace.allow(2 * (asked.request.max_bytes + asked.request.offset) + MAX_HEAD)

    def read_into(self, buffer: memoryview) -> int:
        """See `ranges.Answer.read_into`."""
        if not self._ahead:
            if self._left == 0:
                self._finish()
                return 0
            with _mapped(self._asked, begun=True):
                self._ahead = memoryview(self._read_on())
        count = min(len(self._ahead), len(buffer))
        buffer[:count] = self._ahead[:count]
        self._ahead = self._ahead[count:]
        return count

    def close(self) -> None:
        """See `ranges.Answer.close`."""
        if not self._finished:
            self._finished = True
            self._connection.end()

    def _look(self) -> Head:
        """What the head of the answer is, by what opening the file told."""
        request, file, place = self._asked.request, self._file, self._asked.place
        times = "-".join(f"{when:%Y%m%d%H%M%S%f}" for when in (file.last_write_time, file.change_time))
        etag = f'"{times}-{file.end_of_file:x}"'
        if {name.lower(): value for name, value in request.headers.items()}.get("if-none-match") == etag:
            return Head(304, {"content-length": "0", "etag": etag})
        cut = cut_of(request, file.end_of_file, etag)
        if cut is None:
            return Head(416, {"content-range": f"bytes */{file.end_of_file}"})
        self._at, self._left = cut.first, cut.length
        if request.method != "HEAD" and cut.too_long_for(request):
            raise transfer_error(
                "transfer.too_long", f"{place.name} has {cut.length} bytes; at most {request.max_bytes} are accepted."
            )
        return Head(cut.status, cut.headers)

    def _read_on(self) -> bytes:
        window = self._connection.sequence_window
        paid = (window["high"] - window["low"]) * _CREDIT if self._connection.supports_multi_credit else _CREDIT
        asked = max(min(PIECE, self._left, self._connection.max_read_size, paid), 1)
        data: bytes = self._file.read(self._at, asked)
        if len(data) > asked:
            raise transfer_error("transfer.too_long", "The file server sent more than it was asked for.")
        if not data:
            raise transfer_error("transfer.truncated", f"{self._asked.place.name} became shorter while it was read.")
        self._at += len(data)
        self._left -= len(data)
        return data

    def _finish(self) -> None:
        """Close the file at the server, and put the session aside for the next question."""
        if self._finished:
            return
        self._finished = True
        if self._file.connected:
            try:
                with _mapped(self._asked, begun=True):
                    self._file.close(get_attributes=False)
            except TransferError:
                self._connection.end()
                return
        self._keep()


@contextlib.contextmanager
def _mapped(asked: _Asked, *, begun: bool = False) -> Iterator[None]:
    """The one place where errors of sockets and of the library become coded ones.

    Args:
        begun: The body has; what breaks off now is truncated.
    """
    place = asked.place
    where = f"{place.host} port {place.port}"
    try:
        yield
    except TransferError:
        raise
    except SMBResponseException as error:
        if error.status in SESSION_OVER and not begun:
            raise _OverError from error
        if error.status == _END_OF_FILE:
            raise transfer_error("transfer.truncated", f"{place.name} became shorter while it was read.") from error
        if error.status in _ODD:
            raise transfer_error("transfer.protocol", f"{place.name} {_ODD[error.status]}.") from error
        raise status_error(error.status, asked.login.name, place.name) from error
    except ConnectionError as error:
        if begun:
            raise transfer_error("transfer.truncated", f"The connection to {where} broke: {error}.") from error
        if asked.pace.answered:
            raise _OverError from error
        raise transfer_error("transfer.unreachable", f"{where} cannot be reached: {error}.") from error
    except TimeoutError as error:
        asked.pace.timeout(time.monotonic())
        raise transfer_error("transfer.timeout", f"No connection to {where} in time.") from error
    except OSError as error:
        raise transfer_error("transfer.unreachable", f"{where} cannot be reached: {error}.") from error
    except _NONSENSE as error:
        raise transfer_error("transfer.protocol", f"{where} does not answer in SMB: {type(error).__name__}.") from error


def _context(user: Any, *arguments: Any, **options: Any) -> Any:
    """What the library finds as `spnego.client`: tickets of the system's Kerberos are made already, the rest it makes itself."""
    return user if isinstance(user, Ticket) else spnego.client(user, *arguments, **options)


# The library has no other door for a security context of one's own; its Kerberos wants a module that must be compiled.
smbprotocol.session.spnego = SimpleNamespace(
    client=_context, exceptions=spnego.exceptions, NegotiateOptions=spnego.NegotiateOptions
)
