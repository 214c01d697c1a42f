"""What file servers and domain controllers say, as coded errors: each with what is wrong and who can mend it.

Serves steps 6 and 8, inside the transfer process: `smb` and `kerberos` ask here for every status that is not success. The
numbers are those of [MS-ERREF] section 2.3 (NTSTATUS) and of RFC 4120 section 7.5.9 as MIT Kerberos numbers them. Pure.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from pcm.model.errors import TransferError
from pcm.transport.framing import transfer_error

ACCESS_DENIED = 0xC0000022
LOGON_FAILURE = 0xC000006D
NOT_THERE = frozenset(
    (
        0xC000000F,  # NO_SUCH_FILE
        0xC0000033,  # OBJECT_NAME_INVALID
        0xC0000034,  # OBJECT_NAME_NOT_FOUND
        0xC000003A,  # OBJECT_PATH_NOT_FOUND
        0xC0000056,  # DELETE_PENDING
        0xC0000103,  # NOT_A_DIRECTORY
    )
)
NO_SUCH_SHARE = 0xC00000CC  # BAD_NETWORK_NAME
SESSION_OVER = frozenset(
    (0xC0000203, 0xC000035C, 0xC00000C9)
)  # USER_SESSION_DELETED, NETWORK_SESSION_EXPIRED, NAME_DELETED
_DENIED = frozenset((ACCESS_DENIED, 0xC00000CA))  # NETWORK_ACCESS_DENIED
_REFUSED = "the domain does not know this user, or the password or key is wrong: put the right one into its file"
_EXPIRED = "its password has expired: set a new one in the domain, then put it (or a new keytab) into its file"
_LOCKED = "it is locked after wrong passwords: find out by whom, then unlock it in the domain"
_DISABLED = "it is disabled: enable it in the domain"
_OVER = "it has expired: give it a later end in the domain"
_RESTRICTED = (
    "it may not log on to this server at this time or from here: look at its logon hours, workstations and rights"
)
_SKEW = "this computer's clock differs too much from the domain's: set the clock"
_NO_KDC = "no domain controller answers: look at the network, DNS, and /etc/krb5.conf"


class Said(NamedTuple):
    """A transfer code, and what is wrong with what helps: the second half of a sentence about the account."""

    code: str
    text: str


NO_CONTROLLER = Said("transfer.kdc_unreachable", _NO_KDC)
_STATUS: Mapping[int, Said] = MappingProxyType(
    {
        LOGON_FAILURE: Said("transfer.account_refused", _REFUSED),
        0xC0000064: Said("transfer.account_refused", _REFUSED),  # NO_SUCH_USER
        0xC000006A: Said("transfer.account_refused", _REFUSED),  # WRONG_PASSWORD
        0xC0000071: Said("transfer.password_expired", _EXPIRED),
        0xC0000224: Said("transfer.password_expired", _EXPIRED),  # PASSWORD_MUST_CHANGE
        0xC0000234: Said("transfer.account_locked", _LOCKED),
        0xC0000072: Said("transfer.account_disabled", _DISABLED),
        0xC0000193: Said("transfer.account_expired", _OVER),
        0xC000006E: Said("transfer.account_restricted", _RESTRICTED),  # ACCOUNT_RESTRICTION
        0xC000006F: Said("transfer.account_restricted", _RESTRICTED),  # INVALID_LOGON_HOURS
        0xC0000070: Said("transfer.account_restricted", _RESTRICTED),  # INVALID_WORKSTATION
        0xC000015B: Said("transfer.account_restricted", _RESTRICTED),  # LOGON_TYPE_NOT_GRANTED
        0xC0000133: Said("transfer.clock_skew", _SKEW),  # TIME_DIFFERENCE_AT_DC
        0xC000005E: NO_CONTROLLER,  # NO_LOGON_SERVERS
    }
)
_TABLE = -1765328384  # where MIT Kerberos begins to number the errors of RFC 4120
_KERBEROS: Mapping[int, Said] = MappingProxyType(
    {
        _TABLE + 1: Said("transfer.account_expired", _OVER),  # KDC_ERR_NAME_EXP
        _TABLE + 6: Said("transfer.account_refused", _REFUSED),  # KDC_ERR_C_PRINCIPAL_UNKNOWN
        _TABLE + 7: Said(
            "transfer.server_unknown",
            "the domain knows no file server of this name: use the name under which it joined the domain",
        ),  # KDC_ERR_S_PRINCIPAL_UNKNOWN
        _TABLE + 12: Said("transfer.account_restricted", _RESTRICTED),  # KDC_ERR_POLICY
        _TABLE + 14: Said(
            "transfer.account_refused",
            "the domain takes none of the keys' encryption types: export the keytab anew",
        ),  # KDC_ERR_ETYPE_NOSUPP
        _TABLE + 18: Said(
            "transfer.account_locked",
            "it is locked after wrong passwords, or barred otherwise: look at it in the domain",
        ),  # REVOKED
        _TABLE + 23: Said("transfer.password_expired", _EXPIRED),  # KDC_ERR_KEY_EXP
        _TABLE + 24: Said("transfer.account_refused", _REFUSED),  # KDC_ERR_PREAUTH_FAILED
        _TABLE + 37: Said("transfer.clock_skew", _SKEW),  # AP_ERR_SKEW
        -1765328353: Said(
            "transfer.account_refused", _REFUSED
        ),  # KRB5KRB_AP_ERR_BAD_INTEGRITY: the answer does not open
        -1765328230: NO_CONTROLLER,  # KRB5_REALM_UNKNOWN
        -1765328228: NO_CONTROLLER,  # KRB5_KDC_UNREACH
        -1765328164: NO_CONTROLLER,  # KRB5_REALM_CANT_RESOLVE
        -1765328174: Said(
            "transfer.account_refused",
            "the domain takes none of the keys that its file has: export the keytab anew",
        ),  # KRB5_PREAUTH_FAILED
        -1765328203: Said("transfer.account_refused", "its keytab has no key that the domain asks for: export it anew"),
    }
)


def account_error(who: str, where: str, said: Said) -> TransferError:
    """The error about an account at a server or in a domain."""
    return transfer_error(said.code, f"The account {who} cannot log on to {where}: {said.text}.")


def status_error(status: int, who: str, where: str) -> TransferError:
    """The error for an NTSTATUS other than 'not there'.

    Args:
        who: The account.
        where: Server, share or file, as people write it.
    """
    if status in _DENIED:
        return transfer_error(
            "transfer.refused",
            f"The account {who} may not read {where}: give it read permission on the share and on the folder.",
        )
    if status == NO_SUCH_SHARE:
        return transfer_error("transfer.not_found", f"There is no share of this name: {where}.")
    said = _STATUS.get(status)
    if said is not None:
        return account_error(who, where, said)
    return transfer_error("transfer.server_error", f"The file server answers {where} with status 0x{status:08X}.")


def kerberos_error(number: int, text: str, status: int | None, who: str, where: str) -> TransferError:
    """The error for a number of libkrb5.

    Args:
        text: What libkrb5 says itself.
        status: The NTSTATUS that a Windows or Samba controller put beside it; it tells locked from disabled.
    """
    said = (_STATUS.get(status) if status is not None else None) or _KERBEROS.get(number)
    if said is not None:
        return account_error(who, where, said)
    return transfer_error("transfer.server_error", f"Kerberos does not log {who} on to {where}: {text} ({number}).")


def names_status(status: int) -> bool:
    """Whether this NTSTATUS says something about an account."""
    return status in _STATUS
