"""The account that reads instruction and package folders on shares: the administrator's file, and the peace that it is left in.

Serves steps 6 and 8: `share_client` asks it for a login before each question to a file server, and tells it how that went. The
article's service account, cut in two: what it may do on this computer, and as whom it reads the servers, are two things (see
docs/smb.md). A login goes only to servers that this computer's administrator named, whatever an instruction file says.

Whatever a domain refuses is asked again only later, by one attempt for all servers together, unless the file or what it names
has other contents (KB Q230242, Q184858: an expired password was tried until the account locked). No refusal proves who refused:
the errors of a controller and of a logon at a file server are not signed, and whoever is on the line can forge one. So one alone
silences nobody for long; the rest grows only if the same login is refused again.
"""

import contextlib
import hashlib
import os
import random
import stat
import urllib.parse
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from pcm.model.errors import MachineError, PcmError, RequestError, TransferError
from pcm.protocol import codec
from pcm.service.machine.durable import write_atomically
from pcm.service.places import Places
from pcm.service.records import to_text, to_time
from pcm.transport.framing import ACCOUNT_REFUSALS, transfer_error
from pcm.transport.smb_account import KERBEROS, MAX_KEYTAB, MAX_PASSWORD, NTLM, Login, encode_login, read_keytab

MAX_FILE = 16 * 1024
# A wrong password counts towards a lockout, whose threshold is hardly ever below three, and which counts for some minutes, or at
# most for a day: two attempts a day lock nobody. The other refusals count for nothing; but each is a line in somebody's log.
WRONG_PAUSES = (timedelta(hours=1), timedelta(hours=24))
PAUSES = (timedelta(minutes=15), timedelta(hours=1), timedelta(hours=4))
ASKED_PAUSE = timedelta(hours=1)  # a wrong password, although an administrator asks
_SPREAD = 1.25
_PORT = 445
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=400)]


class AccountFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`/etc/pcm/account.json`.

    Attributes:
        user: As the domain knows it, without the domain; a computer's own account ends with `$`.
        domain: The domain's DNS name (its realm); with `ntlm` the short name of domain or server, or nothing.
        keytab: File with the account's Kerberos keys, or
        password_file: file with its password in the first line. Both are read by administrators only.
        protocol: `ntlm` only for file servers that belong to no domain.
        servers: Hosts that it is for; `*.example.org` are all below it, `nas:4450` is one at another port than SMB's own: on a
            trusted host, too, anybody may listen somewhere. Default with Kerberos: those of the domain.
    """

    user: Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f@/\\\"\[\]:;|=,+*?<>]{1,256}$")]
    domain: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]{0,255}$")] = ""
    keytab: _Text | None = None
    password_file: _Text | None = None
    protocol: Literal["kerberos", "ntlm"] = "kerberos"
    servers: Annotated[tuple[_Text, ...], msgspec.Meta(max_length=64)] = ()

    def hosts(self) -> tuple[str, ...]:
        """The hosts that it is for, in lower case."""
        default = (f"*.{self.domain}",) if self.protocol == KERBEROS else ()
        return tuple(host.lower() for host in self.servers or default)

    def is_for(self, host: str, port: int) -> bool:
        """Whether a file server gets this account's credentials."""
        place = host if port == _PORT else f"{host}:{port}"
        return any(
            place == pattern or (pattern.startswith("*.") and place.endswith(pattern[1:])) for pattern in self.hosts()
        )


class Rest(msgspec.Struct, frozen=True):
    """What was refused, and until when it is not asked again. `mark`: of the login, salted. `times`: refused in a row."""

    code: str
    message: str
    at: str
    until: str
    salt: str
    mark: str
    times: int = 1


class Account:
    """The account, as its files are now.

    Args:
        file: Read from `account.json`.
        login: With the password or the keys in it.
    """

    def __init__(self, file: AccountFile, login: Login) -> None:
        self._file = file
        self._encoded = encode_login(login)
        self.name = login.name

    def text_for(self, url: str) -> str:
        """What goes with a request for a share.

        Raises:
            TransferError: `transfer.no_account`: it is not for this server.
        """
        parts = urllib.parse.urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port or _PORT
        if not self._file.is_for(host, port):
            where = host if port == _PORT else f"{host}:{port}"
            raise transfer_error(
                "transfer.no_account",
                f"The account {self.name} is not for {where}, only for {', '.join(self._file.hosts())}: name the server in "
                "`servers` of account.json if it shall be.",
            )
        return self._encoded

    def describe(self) -> str:
        """For people: who, how, and for which servers."""
        how = "its keytab" if self._file.keytab else f"its password ({self._file.protocol})"
        return f"{self.name} by {how}, for {', '.join(self._file.hosts())}"

    def mark(self, salt: str) -> str:
        """A mark of the login that changes with it and does not give it away."""
        return hashlib.scrypt(self._encoded.encode(), salt=salt.encode(), n=2**12, r=8, p=1, dklen=16).hex()


def load_account(places: Places) -> Account:
    """Read the account and its secret.

    Raises:
        RequestError: `request.account`; MachineError: `machine.unprotected`, `machine.rights`. Each names the file.
    """
    try:
        data = read_private(places.account, MAX_FILE, only_protected=True)
    except FileNotFoundError:
        raise RequestError(
            f"No account is given that may read shares: write {places.account} (docs/smb.md).", code="request.account"
        ) from None
    try:
        file: AccountFile = codec.parse(AccountFile, data, kind="account", max_bytes=MAX_FILE)
    except RequestError as error:
        raise RequestError(f"{places.account}: {error.message}", code="request.account") from None
    fault = _fault(file)
    if fault:
        raise RequestError(f"{places.account}: {fault}.", code="request.account")
    return Account(file, _read_login(file))


def _fault(file: AccountFile) -> str | None:
    if (file.keytab is None) == (file.password_file is None):
        return "name either `keytab` or `password_file`"
    if file.protocol == KERBEROS and "." not in file.domain.strip("."):
        return "`domain` must be the domain's DNS name, as in example.org (or set `protocol` to ntlm for a server without domain)"
    if file.protocol == NTLM and file.keytab is not None:
        return "a keytab is for Kerberos; ntlm takes `password_file`"
    if file.protocol == NTLM and not file.servers:
        return "ntlm proves no server's name: list the `servers` that this account is for"
    return None


def _read_login(file: AccountFile) -> Login:
    path = Path(file.keytab or file.password_file or "")
    domain = file.domain.upper() if file.protocol == KERBEROS else file.domain
    try:
        data = read_private(path, MAX_KEYTAB)
    except FileNotFoundError:
        raise RequestError(f"{path}, which account.json names, does not exist.", code="request.account") from None
    if file.keytab is not None:
        try:
            return Login(file.user, domain, file.protocol, None, read_keytab(data, file.user, domain))
        except RequestError as error:
            raise RequestError(f"The keytab {path} cannot be used: {error.message}", code="request.account") from None
    try:
        password = data.decode("utf-8").split("\n", 1)[0].rstrip("\r")
    except UnicodeDecodeError:
        password = ""
    if not 0 < len(password) <= MAX_PASSWORD:
        raise RequestError(
            f"The password file {path} has no password of 1 to {MAX_PASSWORD} characters (UTF-8) in its first line.",
            code="request.account",
        )
    return Login(file.user, domain, file.protocol, password)


def read_private(path: Path, most: int, *, only_protected: bool = False) -> bytes:
    """Read a file that belongs to root (or to this account) and that nobody else can read.

    Args:
        only_protected: Others may read it, but not write to it.

    Raises:
        FileNotFoundError. MachineError: `machine.unprotected`, `machine.rights`.
    """
    if not path.is_absolute():
        raise MachineError(f"{path} is not an absolute path.", code="machine.unprotected")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        raise
    except PermissionError:
        raise MachineError(f"Only administrators can read {path}.", code="machine.rights") from None
    except OSError as error:
        raise MachineError(f"{path} cannot be read: {error.strerror}.", code="machine.rights") from None
    try:
        status = os.fstat(descriptor)
        forbidden = 0o022 if only_protected else 0o077
        if not stat.S_ISREG(status.st_mode) or status.st_mode & forbidden or status.st_uid not in (0, os.geteuid()):
            raise MachineError(
                f"{path} must be a regular file of root that nobody else can {'change' if only_protected else 'read'}: "
                f"chown root {path}; chmod {'644' if only_protected else '600'} {path}.",
                code="machine.unprotected",
            )
        return os.read(descriptor, most)
    finally:
        os.close(descriptor)


class Peace:
    """The memory of the last refusal.

    Args:
        path: Where it is kept, beside the state; lost, it costs one attempt.
    """

    def __init__(self, path: Path, chance: random.Random | None = None) -> None:
        self._path = path
        self._chance = chance or random.SystemRandom()
        self._rest = self._read()
        self._forced = False

    def force(self) -> None:
        """An administrator asks for a fresh try."""
        self._forced = True

    def require(self, account: Account, now: datetime) -> None:
        """Return if an attempt may be made now.

        Raises:
            TransferError: what was refused the last time, with its code, and until when.
        """
        rest = self._rest
        if rest is None or account.mark(rest.salt) != rest.mark:
            return
        wrong = rest.code == "transfer.account_refused"
        at, until = to_time(rest.at), to_time(rest.until)
        if self._forced and not (wrong and at <= now < at + ASKED_PAUSE):
            return
        # nobody rests longer than the longest pause: a later time was written by a wrong clock
        if now < until <= now + _SPREAD * (WRONG_PAUSES if wrong else PAUSES)[-1]:
            raise transfer_error(
                rest.code, f"{rest.message} [not tried again before {until:%Y-%m-%dT%H:%M}Z, unless its files change]"
            )

    def note(self, account: Account, error: TransferError, now: datetime) -> None:
        """Keep a refusal; the next rest of the same login is longer.

        Raises:
            StoreError, MachineError: it cannot be kept.
        """
        if error.code not in ACCOUNT_REFUSALS:
            return
        last = self._rest
        again = last is not None and account.mark(last.salt) == last.mark
        times = min(last.times + 1, 1000) if last is not None and again else 1
        pauses = WRONG_PAUSES if error.code == "transfer.account_refused" else PAUSES
        pause = pauses[min(times, len(pauses)) - 1] * self._chance.uniform(1, _SPREAD)
        salt, until = os.urandom(16).hex(), to_text(now + pause)
        self._rest = Rest(error.code, error.message[:300], to_text(now), until, salt, account.mark(salt), times)
        self._forced = False
        write_atomically(self._path, msgspec.json.encode(self._rest))

    def forget(self) -> None:
        """It was taken."""
        if self._rest is not None:
            self._rest = None
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _read(self) -> Rest | None:
        try:
            rest: Rest = codec.parse(Rest, self._path.read_bytes(), kind="account rest", max_bytes=MAX_FILE)
            to_time(rest.at), to_time(rest.until)
        except (OSError, PcmError):
            return None
        return rest
