"""Kerberos tickets by the system's own library (MIT's libkrb5 and libgssapi_krb5), bound with `ctypes`.

Serves steps 6 and 8, inside the transfer process, below `smb`. From a password or the keys of a keytab it gets the account's
first ticket once in a process's life, and from it a token and a session key for each file server. Tickets stay in memory: this
process cannot write files. A controller is asked once for each account: whatever it refuses is told, with what it says itself,
and never tried again here (KB Q184858). Server names are taken as they are, never looked up backwards.
"""

import ctypes
import itertools
import re
from collections.abc import Callable
from ctypes import POINTER, Structure, byref, c_char_p, c_int, c_int32, c_size_t, c_uint, c_uint32, c_void_p
from typing import Any

from pcm.model.errors import TransferError
from pcm.transport.framing import transfer_error
from pcm.transport.smb_account import Key, Login
from pcm.transport.smb_codes import kerberos_error, names_status

_COMPLETE, _CONTINUE = 0, 1  # GSS-API's major status, RFC 2744
_MUTUAL, _REPLAY, _SEQUENCE, _CONFIDENTIALITY, _INTEGRITY = 2, 4, 8, 16, 32
# KERB-ERROR-DATA ([MS-KILE] 2.2.2) and Samba's like: twelve bytes, the first four an NTSTATUS. Unsigned: a name, nothing else.
_EXTENDED = re.compile(rb"\x04\x0c(...\xc0)\x00{4}", re.DOTALL)
_KRB_ERROR = 0x7E  # its first byte, RFC 4120 section 5.9.1
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


_HOOK = ctypes.CFUNCTYPE(
    c_int32, c_void_p, c_void_p, c_int32, POINTER(_Data), POINTER(_Data), POINTER(_Data), POINTER(c_void_p)
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
        self._status: int | None = None  # what the last controller put beside its refusal
        self._hook = _HOOK(self._hear)
        self._refusal: TransferError | None = None

    def token_source(self, host: str) -> "Ticket":
        """The client's half of a conversation with the file server `host`.

        Raises:
            TransferError: see `smb_codes`; the same one again, without asking, once a controller has refused the account.
        """
        if self._refusal is not None:
            raise self._refusal
        if not self._cache:
            try:
                self._log_on()
            except TransferError as error:
                self._refusal = error
                raise
        return Ticket(self._gss, self._cache, host, lambda minor: self._error(minor, host))

    def _log_on(self) -> None:
        krb5 = self._krb5
        self._must(krb5.krb5_init_context(byref(self._context)))
        krb5.krb5_set_kdc_recv_hook(self._context, self._hook, None)
        principal = c_void_p()
        name = f"{_quoted(self._login.user)}@{_quoted(self._login.domain)}".encode()
        self._must(krb5.krb5_parse_name(self._context, name, byref(principal)))
        cache, options = c_void_p(), c_void_p()
        self._must(krb5.krb5_cc_resolve(self._context, f"MEMORY:pcm-{next(_numbers)}".encode(), byref(cache)))
        self._must(krb5.krb5_get_init_creds_opt_alloc(self._context, byref(options)))
        self._must(krb5.krb5_get_init_creds_opt_set_out_ccache(self._context, options, cache))
        ticket = ctypes.create_string_buffer(1024)  # a krb5_creds: 120 bytes; what counts is in the cache
        if self._login.password is None:
            keys = self._keytab(principal)
            failed = krb5.krb5_get_init_creds_keytab(self._context, ticket, principal, keys, 0, None, options)
        else:
            word = self._login.password.encode()
            failed = krb5.krb5_get_init_creds_password(
                self._context, ticket, principal, word, None, None, 0, None, options
            )
        self._must(failed)
        self._cache = cache

    def _keytab(self, principal: c_void_p) -> c_void_p:
        keytab = c_void_p()
        self._must(self._krb5.krb5_kt_resolve(self._context, f"MEMORY:pcm-{next(_numbers)}".encode(), byref(keytab)))
        for key in self._login.keys:
            entry = _entry(principal, key)
            self._must(self._krb5.krb5_kt_add_entry(self._context, keytab, byref(entry)))
        return keytab

    def _hear(self, _context: Any, _data: Any, code: int, _realm: Any, _message: Any, reply: Any, _new: Any) -> int:
        """See what a controller answered, before libkrb5 throws away all but its number."""
        self._status = None
        if code == 0 and reply:
            said = ctypes.string_at(reply.contents.data, reply.contents.length)
            found = _EXTENDED.search(said) if said[:1] == bytes([_KRB_ERROR]) else None
            status = int.from_bytes(found[1], "little") if found else 0
            self._status = status if names_status(status) else None
        return code

    def _must(self, number: int) -> None:
        if number:
            raise self._error(number, self._login.domain)

    def _error(self, number: int, where: str) -> TransferError:
        told = self._krb5.krb5_get_error_message(self._context, c_int32(number))
        text = (ctypes.string_at(told) if told else b"").decode("utf-8", "replace")
        self._krb5.krb5_free_error_message(self._context, c_void_p(told))
        return kerberos_error(number, text, self._status, self._login.name, where)


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


def _signed(minor: c_uint32) -> int:
    return c_int(minor.value).value


def _quoted(part: str) -> str:
    r"""A part of a principal's name: what separates parts is quoted by `\`."""
    return re.sub(r"([\\/@])", r"\\\1", part)
