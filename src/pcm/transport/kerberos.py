"""Kerberos tickets by the system's own library (MIT's libkrb5 and libgssapi_krb5), bound with `ctypes`.

Serves steps 6 and 8, inside the transfer process, below `smb`. From a password or the keys of a keytab it gets the account's
first ticket once in a process's life, and from it a token and a session key for each file server. Tickets stay in memory: this
process cannot write files. A controller is asked once for each account: whatever it refuses is told, with what it says itself,
and never tried again here (KB Q184858). Server names are taken as they are, never looked up backwards. No function of ours is
called back by the library: that takes memory which is written and then run, and the service's unit forbids such.
"""

import ctypes
import itertools
import re
from collections.abc import Callable
from ctypes import POINTER, Structure, byref, c_char_p, c_int, c_int32, c_size_t, c_uint, c_uint32, c_void_p

from pcm.model.errors import TransferError
from pcm.transport.framing import transfer_error
from pcm.transport.kdc import Controller, Conversation, find_by_dns, parse_controller
from pcm.transport.pace import Pace
from pcm.transport.smb_account import Key, Login
from pcm.transport.smb_codes import kerberos_error, names_status

_COMPLETE, _CONTINUE = 0, 1  # GSS-API's major status, RFC 2744
_MUTUAL, _REPLAY, _SEQUENCE, _CONFIDENTIALITY, _INTEGRITY = 2, 4, 8, 16, 32
# KERB-ERROR-DATA ([MS-KILE] 2.2.2) and Samba's like: twelve bytes, the first four an NTSTATUS. Unsigned: a name, nothing else.
_EXTENDED = re.compile(rb"\x04\x0c(...\xc0)\x00{4}", re.DOTALL)
_KRB_ERROR = b"\x7e"  # its first byte, RFC 4120 section 5.9.1
_numbers = itertools.count(1)


class _Octets(Structure):
    """`gss_buffer_desc`."""

    _fields_ = (("length", c_size_t), ("value", c_void_p))


class _Oid(Structure):
    """`gss_OID_desc`."""

    _fields_ = (("length", c_uint32), ("elements", c_char_p))


class _Set(Structure):
    """`gss_buffer_set_desc`."""

    _fields_ = (("count", c_size_t), ("elements", POINTER(_Octets)))


class _Data(Structure):
    """`krb5_data`."""

    _fields_ = (("magic", c_int32), ("length", c_uint), ("data", c_void_p))


class _KeyBlock(Structure):
    """`krb5_keyblock`."""

    _fields_ = (("magic", c_int32), ("enctype", c_int32), ("length", c_uint), ("contents", c_char_p))


class _Entry(Structure):
    """`krb5_keytab_entry`."""

    _fields_ = (
        ("magic", c_int32),
        ("principal", c_void_p),
        ("timestamp", c_int32),
        ("version", c_uint),
        ("key", _KeyBlock),
    )


_MECHANISM = _Oid(9, bytes.fromhex("2a864886f712010202"))  # 1.2.840.113554.1.2.2, Kerberos 5
_PRINCIPAL_NAME = _Oid(10, bytes.fromhex("2a864886f71201020201"))  # GSS_KRB5_NT_PRINCIPAL_NAME
_SESSION_KEY = _Oid(11, bytes.fromhex("2a864886f7120102020505"))  # GSS_C_INQ_SSPI_SESSION_KEY


class Kerberos:
    """One account's tickets, and the way to more.

    Args:
        login: With a password, or keys.

    Raises:
        TransferError: `transfer.no_account`: this computer has no Kerberos library.
    """

    def __init__(self, login: Login) -> None:
        try:
            self._krb5, self._gss = ctypes.CDLL("libkrb5.so.3"), ctypes.CDLL("libgssapi_krb5.so.2")
        except OSError as error:
            raise transfer_error(
                "transfer.no_account", f"Kerberos needs the system's library (libgssapi-krb5-2, krb5-libs): {error}."
            ) from error
        self._krb5.krb5_get_error_message.restype = c_void_p
        self._krb5.krb5_set_kdc_recv_hook.restype = None
        self._login = login
        self._context = c_void_p()
        self._cache = c_void_p()
        self._refusal: TransferError | None = None

    def token_source(self, host: str, pace: Pace) -> "Ticket":
        """The client's half of a conversation with the file server `host`.

        Args:
            pace: Limits the time that a controller may take.

        Raises:
            TransferError: see `smb_codes`; the same one again, without asking, once a controller has refused the account.
        """
        if self._refusal is not None:
            raise self._refusal
        if not self._cache:
            try:
                self._log_on(pace)
            except TransferError as error:
                self._refusal = error
                raise
        return Ticket(self._gss, self._cache, host, lambda minor: self._error(minor, host))

    def _log_on(self, pace: Pace) -> None:
        """Ask a controller of the account's realm for the first ticket, and keep it."""
        krb5, login = self._krb5, self._login
        self._must(krb5.krb5_init_context(byref(self._context)))
        principal, cache, options, conversation = c_void_p(), c_void_p(), c_void_p(), c_void_p()
        name = f"{_quoted(login.user)}@{_quoted(login.domain)}".encode()
        self._must(krb5.krb5_parse_name(self._context, name, byref(principal)))
        self._must(krb5.krb5_cc_resolve(self._context, f"MEMORY:pcm-{next(_numbers)}".encode(), byref(cache)))
        self._must(krb5.krb5_get_init_creds_opt_alloc(self._context, byref(options)))
        self._must(krb5.krb5_get_init_creds_opt_set_out_ccache(self._context, options, cache))
        self._must(krb5.krb5_init_creds_init(self._context, principal, None, None, 0, options, byref(conversation)))
        if login.password is None:
            self._must(krb5.krb5_init_creds_set_keytab(self._context, conversation, self._keytab(principal)))
        else:
            self._must(krb5.krb5_init_creds_set_password(self._context, conversation, login.password.encode()))
        controller = Conversation(login.domain, self._controllers(), pace, login.name)
        answer, status = b"", None
        while True:
            given, asked, realm, more = _data(answer), _Data(), _Data(), c_uint()
            number = krb5.krb5_init_creds_step(
                self._context, conversation, byref(given), byref(asked), byref(realm), byref(more)
            )
            if number:
                raise self._error(number, login.domain, status)
            if not more.value & 1:  # KRB5_INIT_CREDS_STEP_FLAG_CONTINUE
                break
            answer = controller.ask(ctypes.string_at(asked.data, asked.length))
            status = _status_in(answer)
        self._cache = cache

    def _controllers(self) -> list[Controller]:
        """As `/etc/krb5.conf` names them, else DNS."""
        profile, values = c_void_p(), POINTER(c_char_p)()
        self._must(self._krb5.krb5_get_profile(self._context, byref(profile)))
        names = (c_char_p * 4)(b"realms", self._login.domain.encode(), b"kdc", None)
        named: list[str] = []
        if self._krb5.profile_get_values(profile, names, byref(values)) == 0:
            while value := values[len(named)]:
                named.append(value.decode("utf-8", "replace"))
            self._krb5.profile_free_list(values)
        self._krb5.profile_release(profile)
        found = [controller for controller in map(parse_controller, named) if controller is not None]
        return found or find_by_dns(self._login.domain)

    def _keytab(self, principal: c_void_p) -> c_void_p:
        keytab = c_void_p()
        self._must(self._krb5.krb5_kt_resolve(self._context, f"MEMORY:pcm-{next(_numbers)}".encode(), byref(keytab)))
        for key in self._login.keys:
            entry = _entry(principal, key)
            self._must(self._krb5.krb5_kt_add_entry(self._context, keytab, byref(entry)))
        return keytab

    def _must(self, number: int) -> None:
        if number:
            raise self._error(number, self._login.domain)

    def _error(self, number: int, where: str, status: int | None = None) -> TransferError:
        told = self._krb5.krb5_get_error_message(self._context, c_int32(number))
        text = (ctypes.string_at(told) if told else b"").decode("utf-8", "replace")
        self._krb5.krb5_free_error_message(self._context, c_void_p(told))
        return kerberos_error(number, text, status, self._login.name, where)


class Ticket:
    """A security context with one file server; has what `smbprotocol` asks of one.

    Attributes:
        complete: The server has proved itself, too.
    """

    def __init__(self, gss: ctypes.CDLL, cache: c_void_p, host: str, error: Callable[[int], TransferError]) -> None:
        self.complete = False
        self._gss, self._error = gss, error
        self._context, self._name, self._credential = c_void_p(), c_void_p(), c_void_p()
        minor = c_uint32()
        # no realm: the account's own is asked, and may refer to another one of its forest
        name = _octets(f"cifs/{_quoted(host)}@".encode())
        if gss.gss_import_name(byref(minor), byref(name), byref(_PRINCIPAL_NAME), byref(self._name)):
            raise error(_signed(minor))
        if gss.gss_krb5_import_cred(byref(minor), cache, None, None, byref(self._credential)):
            raise error(_signed(minor))

    def step(self, token: bytes | None) -> bytes | None:
        """The next token for the server, from its last one; None when there is nothing more to say.

        Raises:
            TransferError: the domain gives no ticket for this server, or the server cannot prove itself.
        """
        minor, out, given = c_uint32(), _Octets(), _octets(token or b"")
        flags = _MUTUAL | _REPLAY | _SEQUENCE | _CONFIDENTIALITY | _INTEGRITY
        major = self._gss.gss_init_sec_context(
            byref(minor), self._credential, byref(self._context), self._name, byref(_MECHANISM), c_uint32(flags), 0,
            None, byref(given) if token else None, None, byref(out), None, None,
        )  # fmt: skip
        answer = ctypes.string_at(out.value, out.length) if out.value else b""
        self._gss.gss_release_buffer(byref(c_uint32()), byref(out))
        if major not in (_COMPLETE, _CONTINUE):
            raise self._error(_signed(minor))
        self.complete = major == _COMPLETE
        return answer or None

    @property
    def session_key(self) -> bytes:
        """The key that both sides have now; SMB signs and encrypts with what follows from it ([MS-SMB2] 3.2.5.3)."""
        found, minor = POINTER(_Set)(), c_uint32()
        failed = self._gss.gss_inquire_sec_context_by_oid(
            byref(minor), self._context, byref(_SESSION_KEY), byref(found)
        )
        if failed or found.contents.count == 0:
            raise transfer_error("transfer.insecure", "Kerberos has no session key for this file server.")
        first = found.contents.elements[0]
        key = ctypes.string_at(first.value, first.length)
        self._gss.gss_release_buffer_set(byref(minor), byref(found))
        return key


def _octets(data: bytes) -> _Octets:
    return _Octets(len(data), ctypes.cast(ctypes.create_string_buffer(data, max(len(data), 1)), c_void_p))


def _entry(principal: c_void_p, key: Key) -> _Entry:
    return _Entry(0, principal, 0, key.version, _KeyBlock(0, key.kind, len(key.contents), key.contents))


def _data(octets: bytes) -> _Data:
    return _Data(0, len(octets), ctypes.cast(ctypes.create_string_buffer(octets, max(len(octets), 1)), c_void_p))


def _status_in(answer: bytes) -> int | None:
    """The NTSTATUS that a Windows or Samba controller puts beside a refusal."""
    found = _EXTENDED.search(answer) if answer[:1] == _KRB_ERROR else None
    status = int.from_bytes(found[1], "little") if found else 0
    return status if names_status(status) else None


def _signed(minor: c_uint32) -> int:
    return c_int(minor.value).value


def _quoted(part: str) -> str:
    r"""A part of a principal's name: what separates parts is quoted by `\`."""
    return re.sub(r"([\\/@])", r"\\\1", part)
