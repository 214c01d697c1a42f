"""One SMB connection without a thread, every read of which is watched by a `Pace`, and which believes nothing unsigned.

Serves steps 6 and 8, inside the transfer process, below `smb`: the library `smbprotocol` speaks the protocol; here it gets a
socket with limits, and is held to what it leaves open. It reads in a thread of its own (which this process may not start): here
messages are read when one is waited for. It takes an unsigned answer for a good one, as servers may send some: here every answer
of a session is encrypted or signed, else the connection ends. It follows links that a server names: here none is followed.
"""

import logging
import select
import socket
import time
from typing import Any

from smbprotocol import Dialects
from smbprotocol.connection import Ciphers, Connection, NegotiateContextType, SigningAlgorithms
from smbprotocol.exceptions import SMBException
from smbprotocol.header import Commands, NtStatus, Smb2Flags

from pcm.transport.framing import transfer_error
from pcm.transport.pace import Pace

CONNECT_S = 10.0
MAX_MESSAGE = 1024 * 1024 + 64 * 1024  # the largest answer to a read, and its headers
_CIPHERS = [Ciphers.AES_128_GCM, Ciphers.AES_128_CCM, Ciphers.AES_256_GCM, Ciphers.AES_256_CCM]
_SIGNATURES = [SigningAlgorithms.AES_GMAC, SigningAlgorithms.AES_CMAC, SigningAlgorithms.HMAC_SHA256]

logging.getLogger("smbprotocol").disabled = True
logging.getLogger("smbprotocol.connection").disabled = True  # it logs each error with its trace; here errors are raised
logging.getLogger("spnego").disabled = True


class Wire:
    """A TCP connection that gives whole messages, one for each time that one is asked for; stands where `Tcp` does.

    Args:
        host, port: Of the server.
        pace: Of the exchange that opens the connection; `pace` is set anew for each exchange.
    """

    def __init__(self, host: str, port: int, pace: Pace) -> None:
        self.pace = pace
        self.connected = False
        self._wanted = 0
        timeout = min(CONNECT_S, pace.timeout(time.monotonic()))
        self._sock = socket.create_connection((host, port), timeout)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connected = True

    def send(self, message: Any) -> None:
        """Send one message ([MS-SMB2] 2.1: a zero byte and a length of three before it); encrypted ones come unpacked."""
        message = message if isinstance(message, bytes) else message.pack()
        self._sock.settimeout(self.pace.timeout(time.monotonic()))
        self._sock.sendall(len(message).to_bytes(4, "big") + message)

    def want(self) -> None:
        """Let the next `recv` bring one message; the one after it brings nothing, which ends the library's loop."""
        self._wanted = 1

    def recv(self, _timeout: float) -> bytes:
        """One message if it is wanted, else nothing."""
        if not self._wanted:
            return b""
        self._wanted = 0
        length = int.from_bytes(self._exactly(4), "big")
        if length > MAX_MESSAGE:
            raise transfer_error("transfer.protocol", f"The file server sends a message of {length} bytes.")
        if length < 64:
            raise transfer_error("transfer.protocol", "The file server does not speak SMB.")
        return self._exactly(length)

    def is_quiet(self) -> bool:
        """Whether an idle connection can be used again."""
        if not self.connected:
            return False
        poller = select.poll()
        poller.register(self._sock, select.POLLIN | select.POLLHUP | select.POLLERR)
        return not poller.poll(0)

    def close(self) -> None:
        """Close now."""
        if self.connected:
            self.connected = False
            self._sock.close()

    def _exactly(self, count: int) -> bytes:
        data = bytearray(count)
        view, came = memoryview(data), 0
        while came < count:
            most = self.pace.hold(count - came)
            before = time.monotonic()
            self._sock.settimeout(self.pace.timeout(before))
            try:
                got = self._sock.recv_into(view[came:], most)
            except TimeoutError:
                self.pace.record(0, time.monotonic() - before)
                continue
            self.pace.record(got, time.monotonic() - before)
            self.pace.count(got)
            if not got:
                raise ConnectionResetError("the file server closed the connection")
            came += got
        return bytes(data)


class QuietConnection(Connection):  # type: ignore[misc] # the library has no annotations
    """The library's connection, in the caller's thread, and strict."""

    def __init__(self, guid: Any, host: str, port: int) -> None:
        super().__init__(guid, host, port, require_signing=True)
        self.transport: Wire

    def open(self, pace: Pace) -> None:
        """Connect and negotiate, as `Connection.connect` does but for its thread; what was negotiated is in the attributes.

        Raises:
            TransferError, OSError, SMBException.
        """
        self.transport = Wire(self.server_name, self.port, pace)
        answer = self._send_smb2_negotiate(None, 60, _CIPHERS, _SIGNATURES)
        self.dialect = answer["dialect_revision"].get_value()
        self.max_transact_size = answer["max_transact_size"].get_value()
        self.max_read_size = answer["max_read_size"].get_value()
        self.max_write_size = answer["max_write_size"].get_value()
        self.server_guid = answer["server_guid"].get_value()
        self.gss_negotiate_token = answer["buffer"].get_value()
        self.server_capabilities = answer["capabilities"]
        self.server_security_mode = answer["security_mode"].get_value()
        if self.dialect not in self.negotiated_dialects:
            raise transfer_error("transfer.protocol", "The file server chose a dialect that it was not offered.")
        offers = answer["capabilities"].get_value()
        self.supports_multi_credit = self.dialect >= Dialects.SMB_2_1_0 and bool(offers & 0x04)  # LARGE_MTU
        self.supports_encryption = Dialects.SMB_3_0_0 <= self.dialect < Dialects.SMB_3_1_1 and bool(offers & 0x40)
        if self.dialect >= Dialects.SMB_3_1_1:
            self._read_contexts(answer["negotiate_context_list"])

    def _read_contexts(self, contexts: Any) -> None:
        """What SMB 3.1.1 negotiates beside the rest. A cipher or signature that was not offered is not taken."""
        for context in contexts:
            kind = context["context_type"].get_value()
            if kind == NegotiateContextType.SMB2_ENCRYPTION_CAPABILITIES:
                self.cipher_id = context["data"]["ciphers"][0]
                self.supports_encryption = self.cipher_id in _CIPHERS
            elif kind == NegotiateContextType.SMB2_PREAUTH_INTEGRITY_CAPABILITIES:
                self.preauth_integrity_hash_id = context["data"]["hash_algorithms"][0]
            elif kind == NegotiateContextType.SMB2_SIGNING_CAPABILITIES:
                self.signing_algorithm_id = context["data"]["signing_algorithms"][0]
        if self.signing_algorithm_id not in (None, *_SIGNATURES):
            raise transfer_error("transfer.protocol", "The file server chose a signature that it was not offered.")

    def receive(self, request: Any, wait: bool = True, timeout: Any = None, resolve_symlinks: bool = False) -> Any:  # noqa: ARG002
        """Read messages until `request` has its answer, and return it.

        Raises:
            SMBResponseException: a status that is not success. What `open` raises.
        """
        while request.response is None or request.response["status"].get_value() == NtStatus.STATUS_PENDING:
            request.response = None
            self.transport.want()
            self._process_message_thread()  # in this thread: it ends after one message
            self._check_worker_running()
        request.response_event.set()
        return super().receive(request, wait=True, timeout=1, resolve_symlinks=False)

    def verify_signature(self, header: Any, session_id: int, force: bool = False) -> None:
        """Check an answer that was not encrypted. What a session protects must be protected.

        Raises:
            TransferError: `transfer.insecure`.
        """
        session = self.session_table.get(session_id)
        pending = header["status"].get_value() == NtStatus.STATUS_PENDING  # says nothing, and comes unsigned
        if session is None or pending or force:
            before = header["command"].get_value() in (Commands.SMB2_NEGOTIATE, Commands.SMB2_SESSION_SETUP)
            if session is None and not before:
                raise transfer_error("transfer.insecure", "The file server answers outside of the session.")
        elif session.encrypt_data:
            raise transfer_error("transfer.insecure", "The file server answers an encrypted question in the open.")
        elif not header["flags"].has_flag(Smb2Flags.SMB2_FLAGS_SIGNED):
            raise transfer_error("transfer.insecure", "The file server's answer is not signed.")
        try:
            super().verify_signature(header, session_id, force)
        except SMBException as error:
            raise transfer_error("transfer.insecure", "The signature of the file server's answer is wrong.") from error

    def end(self) -> None:
        """Close without ceremony: the server ends session and files by itself."""
        if getattr(self, "transport", None) is not None:
            self.transport.close()
