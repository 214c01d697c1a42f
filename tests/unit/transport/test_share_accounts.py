"""The account as it travels, keytabs, what servers and controllers say, and where controllers are: all without a network."""

import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.model.errors import RequestError, Retry, TransferError
from pcm.transport import smb_codes
from pcm.transport.framing import ACCOUNT_REFUSALS, CODES, Request, encode_request
from pcm.transport.kdc import Controller, parse_controller, read_services
from pcm.transport.pace import Pace
from pcm.transport.smb_account import KERBEROS, NTLM, Key, Login, encode_login, parse_login, read_keytab
from pcm.transport.smb_door import SharesDoor

REALM = "EXAMPLE.ORG"
words = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), min_size=1, max_size=40)
keys = st.builds(Key, st.integers(0, 1 << 31), st.integers(0, 65535), st.binary(min_size=1, max_size=64))


@given(
    words, words, st.one_of(st.tuples(words, st.just(())), st.tuples(st.none(), st.lists(keys, min_size=1).map(tuple)))
)
def test_an_account_survives_the_pipe(user: str, domain: str, secret: tuple[str | None, tuple[Key, ...]]) -> None:
    login = Login(user, domain, KERBEROS, *secret)
    assert parse_login(encode_login(login)) == login


@given(st.one_of(st.text(), st.recursive(st.none() | st.integers() | st.text(), st.lists).map(repr)))
def test_anything_else_is_no_account(text: str) -> None:
    assert parse_login(text) is None


def test_neither_passwords_nor_keys_are_shown() -> None:
    for login in (
        Login("svc", REALM, KERBEROS, "pass-word"),
        Login("svc", REALM, KERBEROS, None, (Key(1, 18, b"the-key"),)),
    ):
        assert "pass-word" not in f"{login!r}{login}"
        assert "the-key" not in f"{login!r}{login.keys}"
    assert Login("svc", REALM, KERBEROS, "x").name == "svc@EXAMPLE.ORG"
    assert Login("svc", "LAB", NTLM, "x").name == "LAB\\svc"
    assert Login("svc", "", NTLM, "x").name == "svc"


@pytest.mark.parametrize("url", ["https://h/x", "http://h/x", "file:///x"])
def test_an_account_travels_to_file_servers_only(url: str) -> None:
    with pytest.raises(RequestError, match="the account"):
        encode_request(1, Request(url, account="secret"))
    assert b"secret" in encode_request(1, Request("smb://h/s/x", account="secret"))


def test_an_installation_that_cannot_read_shares_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pcm.transport.smb", raising=False)
    monkeypatch.setitem(sys.modules, "smbprotocol", None)
    asked = Request("smb://files.example.org/pcm/x", account="x")
    with pytest.raises(TransferError, match="extra 'smb'") as caught:
        SharesDoor().open(asked, Pace(asked, 0.0))
    assert caught.value.code == "transfer.no_smb"


# ---- keytabs


def entry(name: str, realm: str, key: Key, *, wide: bool = True) -> bytes:
    parts = name.split("/")
    counted = [struct.pack(">H", len(text)) + text.encode() for text in (realm, *parts)]
    body = struct.pack(">H", len(parts)) + b"".join(counted) + struct.pack(">II", 1, 0)
    body += struct.pack(">BHH", key.version & 0xFF, key.kind, len(key.contents)) + key.contents
    body += struct.pack(">I", key.version) if wide else b""
    return struct.pack(">i", len(body)) + body


def keytab(*entries: bytes) -> bytes:
    return b"\x05\x02" + b"".join(entries)


def test_only_the_newest_keys_of_the_one_account_are_taken() -> None:
    old, new, other = Key(2, 18, b"o" * 32), Key(300, 18, b"n" * 32), Key(9, 18, b"x" * 32)
    data = keytab(
        entry("svc", REALM, old),
        entry("cifs/svc", REALM, other),
        struct.pack(">i", -20) + bytes(20),  # a deleted one
        entry("svc", "OTHER.ORG", other),
        entry("SVC", REALM, new),
        entry("svc", REALM, new._replace(kind=17)),
    )
    assert read_keytab(data, "svc", REALM) == (new, new._replace(kind=17))
    assert read_keytab(keytab(entry("pc$", REALM, old, wide=False)), "PC$", REALM) == (old,)


@pytest.mark.parametrize(
    "data", [b"", b"\x05\x01", b"nonsense", keytab(), keytab(entry("other", REALM, Key(1, 18, b"k")))]
)
def test_a_keytab_without_the_account_says_whose_it_is(data: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        read_keytab(data, "svc", REALM)
    assert caught.value.code == "request.account"
    if b"other" in data:
        assert "other@example.org" in caught.value.message


@given(st.binary(max_size=300))
def test_no_damage_to_a_keytab_does_more_than_refuse_it(damage: bytes) -> None:
    whole = keytab(entry("svc", REALM, Key(1, 18, b"k" * 32)))
    for data in (b"\x05\x02" + damage, whole + damage, whole[: len(damage)]):
        try:
            read_keytab(data, "svc", REALM)
        except RequestError as error:
            assert error.code == "request.account"


# ---- what is said


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (0xC0000022, "transfer.refused"),
        (0xC000006D, "transfer.account_refused"),
        (0xC000006A, "transfer.account_refused"),
        (0xC0000064, "transfer.account_refused"),
        (0xC0000071, "transfer.password_expired"),
        (0xC0000224, "transfer.password_expired"),
        (0xC0000234, "transfer.account_locked"),
        (0xC0000072, "transfer.account_disabled"),
        (0xC0000193, "transfer.account_expired"),
        (0xC000006F, "transfer.account_restricted"),
        (0xC0000133, "transfer.clock_skew"),
        (0xC000005E, "transfer.kdc_unreachable"),
        (0xC00000CC, "transfer.not_found"),
        (0xC0DEBEEF, "transfer.server_error"),
    ],
)
def test_each_status_has_its_code_names_the_account_and_a_remedy(status: int, code: str) -> None:
    error = smb_codes.status_error(status, "svc@EXAMPLE.ORG", "\\\\files\\pcm")
    assert error.code == code
    assert "\\\\files" in error.message
    if code not in ("transfer.not_found", "transfer.server_error"):
        assert "svc@EXAMPLE.ORG" in error.message
        assert ":" in error.message
        assert error.retry is Retry.LATER


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (-1765328383, "transfer.account_expired"),
        (-1765328378, "transfer.account_refused"),
        (-1765328377, "transfer.server_unknown"),
        (-1765328366, "transfer.account_locked"),
        (-1765328361, "transfer.password_expired"),
        (-1765328360, "transfer.account_refused"),
        (-1765328347, "transfer.clock_skew"),
        (-1765328228, "transfer.kdc_unreachable"),
        (-1765328230, "transfer.kdc_unreachable"),
        (-1, "transfer.server_error"),
    ],
)
def test_each_number_of_kerberos_has_its_code(number: int, code: str) -> None:
    assert smb_codes.kerberos_error(number, "text", None, "svc", "EXAMPLE.ORG").code == code


def test_what_a_controller_says_beside_its_number_is_more_exact() -> None:
    revoked = -1765328366
    for status, code in ((0xC0000072, "disabled"), (0xC0000193, "expired"), (0xC0000234, "locked")):
        assert smb_codes.kerberos_error(revoked, "", status, "svc", "R").code == f"transfer.account_{code}"
    assert smb_codes.kerberos_error(revoked, "", 0xC0001234, "svc", "R").code == "transfer.account_locked"


def test_every_code_travels_and_every_refusal_of_an_account_is_known() -> None:
    said = {each.code for each in (*smb_codes._STATUS.values(), *smb_codes._KERBEROS.values())}
    assert said <= set(CODES)
    assert {code for code in said if "account" in code or "password" in code} == ACCOUNT_REFUSALS
    assert issubclass(TransferError, Exception)


# ---- controllers


@pytest.mark.parametrize(
    ("text", "controller"),
    [
        ("dc1", Controller("dc1", 88)),
        ("dc1.example.org:750", Controller("dc1.example.org", 750)),
        ("tcp/dc1:88", Controller("dc1", 88)),
        ("[2001:db8::1]:88", Controller("2001:db8::1", 88)),
        ("[2001:db8::1]", Controller("2001:db8::1", 88)),
        ("2001:db8::1", Controller("2001:db8::1", 88)),
        ("udp/dc1", None),
        ("https://proxy/KdcProxy", None),
        ("dc1:no", None),
        ("dc1:99999", None),
        ("", None),
    ],
)
def test_a_controller_is_read_as_krb5_conf_writes_it(text: str, controller: Controller | None) -> None:
    assert parse_controller(text) == controller


def label(name: str) -> bytes:
    return b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"


def answer(*records: tuple[int, int, bytes], kind: int = 33) -> bytes:
    data = struct.pack(">HHHHHH", 1, 0x8180, 1, len(records), 0, 0) + label("_kerberos._tcp.example.org") + bytes(4)
    for priority, port, host in records:
        body = struct.pack(">HHH", priority, 100, port) + host
        data += b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 60, len(body)) + body
    return data


def test_controllers_of_dns_come_by_priority_with_compressed_names_too() -> None:
    pointer = b"\x03dc2" + struct.pack(">H", 0xC000 | (12 + len(b"\x09_kerberos\x04_tcp")))
    data = answer((20, 88, label("dc1.example.org")), (10, 750, pointer))
    assert read_services(data) == [Controller("dc2.example.org", 750), Controller("dc1.example.org", 88)]
    assert read_services(answer((1, 88, label("dc1.example.org")), kind=5)) == []


@given(st.binary(max_size=200))
def test_no_answer_of_dns_does_harm(noise: bytes) -> None:
    good = answer((10, 88, label("dc1.example.org")))
    for data in (noise, good[:12] + noise, good[: len(noise)], good[:-9] + noise):
        assert isinstance(read_services(data), list)
    loop = good[:12] + b"\xc0\x0c" + noise
    assert read_services(loop) == []
