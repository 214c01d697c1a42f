"""The account that reads shares: what the privileged side hands to the transfer process with each question to a file server.

Serves steps 6 and 8, on both sides of the pipe: `service.account` reads the administrator's file, takes out of a keytab what
belongs to the one account, and gives it to a request for a server that it is meant for; `smb` logs on with it. It travels over
the pipe only, never on a command line or in the environment, and is printed nowhere. Pure: it opens nothing.
"""

import base64
import binascii
import json
import struct
from typing import Any, NamedTuple

from pcm.model.errors import RequestError

KERBEROS, NTLM = "kerberos", "ntlm"
MAX_KEYTAB = 64 * 1024  # bytes; each key takes about 80
MAX_PASSWORD = 256  # characters, as Windows has it
_KEYTAB_2 = b"\x05\x02"


class Key(NamedTuple):
    """One long-term key out of a keytab: version number (kvno), encryption type (RFC 3961), and the key itself."""

    version: int
    kind: int
    contents: bytes

    def __repr__(self) -> str:
        """Without the key: what is printed may be read."""
        return f"Key(version={self.version}, kind={self.kind})"


class Login(NamedTuple):
    """How to log on.

    Attributes:
        user: `svc-pcm`; a computer's own account ends with `$`.
        domain: Kerberos: the realm, upper case. NTLM: the domain's or the server's short name, or empty.
        protocol: `kerberos` or `ntlm`.
        password: None with keys.
        keys: Of this user alone, the newest last; empty with a password.
    """

    user: str
    domain: str
    protocol: str
    password: str | None = None
    keys: tuple[Key, ...] = ()

    @property
    def name(self) -> str:
        r"""For people: `svc-pcm@EXAMPLE.ORG` or `EXAMPLE\svc-pcm`."""
        if self.protocol == KERBEROS:
            return f"{self.user}@{self.domain}"
        return f"{self.domain}\\{self.user}" if self.domain else self.user

    def __repr__(self) -> str:
        """Without password and keys."""
        return f"Login({self.name}, {self.protocol})"


def encode_login(login: Login) -> str:
    """The text that travels with a request."""
    keys = [[key.version, key.kind, base64.b64encode(key.contents).decode("ascii")] for key in login.keys]
    return json.dumps([login.user, login.domain, login.protocol, login.password, keys], separators=(",", ":"))


def parse_login(text: str) -> Login | None:
    """Read what `encode_login` wrote; None for anything else."""
    try:
        user, domain, protocol, password, keys = json.loads(text)
        login = Login(user, domain, protocol, password, tuple(_parse_key(*key) for key in keys))
    except (ValueError, TypeError, RecursionError):
        return None
    texts = (user, domain, *(() if password is None else (password,)))
    fits = all(isinstance(each, str) for each in texts) and protocol in (KERBEROS, NTLM)
    return login if fits and (password is None) == bool(keys) else None


def _parse_key(version: Any, kind: Any, contents: Any) -> Key:
    if not isinstance(version, int) or not isinstance(kind, int):
        raise TypeError(version, kind)
    return Key(version, kind, base64.b64decode(contents, validate=True))


def read_keytab(data: bytes, user: str, realm: str) -> tuple[Key, ...]:
    """One account's newest keys out of a keytab, so that no other account's key leaves the privileged side.

    The format is that of MIT Kerberos ("The Kerberos V5 keytab file format", version 2): records with a signed length, deleted
    ones negative. Names of computers' accounts compare without regard to case, as in Windows.

    Raises:
        RequestError: `request.account`, it is no keytab, or has no key of this account; the names that it has are told.
    """
    if not data.startswith(_KEYTAB_2):
        raise RequestError("it is not a keytab of format 2.", code="request.account")
    found: dict[str, list[Key]] = {}
    try:
        at = len(_KEYTAB_2)
        while at + 4 <= len(data):
            (length,) = struct.unpack_from(">i", data, at)
            at += 4
            if length > 0:
                name, key = _read_entry(data[at : at + length])
                found.setdefault(name.lower(), []).append(key)
            at += abs(length)
    except (struct.error, UnicodeDecodeError, binascii.Error) as error:
        raise RequestError("it is a damaged keytab.", code="request.account") from error
    keys = found.get(f"{user}@{realm}".lower(), [])
    newest = max((key.version for key in keys), default=0)
    if not keys:
        others = ", ".join(sorted(found)[:5]) or "nobody"
        raise RequestError(f"it has no key of {user}@{realm}, only of {others}.", code="request.account")
    return tuple(key for key in keys if key.version == newest)


def _read_entry(entry: bytes) -> tuple[str, Key]:
    (count,) = struct.unpack_from(">H", entry)
    at = 2
    texts = []
    for _ in range(count + 1):  # the realm, then the name's parts
        text, at = _counted(entry, at)
        texts.append(text.decode("utf-8"))
    at += 8  # type of name, time
    version, kind = struct.unpack_from(">BH", entry, at)
    contents, at = _counted(entry, at + 3)
    if at + 4 <= len(entry):
        (longer,) = struct.unpack_from(">I", entry, at)
        version = longer or version
    return f"{'/'.join(texts[1:])}@{texts[0]}", Key(version, kind, contents)


def _counted(entry: bytes, at: int) -> tuple[bytes, int]:
    (length,) = struct.unpack_from(">H", entry, at)
    if at + 2 + length > len(entry):
        raise struct.error(length)
    return entry[at + 2 : at + 2 + length], at + 2 + length
