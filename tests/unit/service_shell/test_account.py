"""The account for shares: its file, whom it is handed to, and the peace that it is left in after a refusal."""

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pcm.model.errors import MachineError, PcmError, RequestError, TransferError
from pcm.service.account import PAUSES, WRONG_PAUSES, Account, Peace, load_account, read_private
from pcm.service.places import Places, find_places
from pcm.service.share_client import ShareClient
from pcm.transport.channel import Channel
from pcm.transport.framing import ACCOUNT_REFUSALS, Request, Settings, transfer_error
from pcm.transport.smb_account import parse_login

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
URL = "smb://files.example.org/pcm/x"


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = find_places(tmp_path)
    for folder in (made.config, made.state):
        folder.mkdir()
    return made


def write(places: Places, secret: str = "word\n", **changes: Any) -> None:
    path = places.config / "secret"
    path.write_text(secret)
    path.chmod(0o600)
    file = {"user": "svc-pcm", "domain": "example.org", "password_file": str(path), **changes}
    places.account.write_text(json.dumps({key: value for key, value in file.items() if value is not None}))
    places.account.chmod(0o644)


def account_of(places: Places, secret: str = "word\n", **changes: Any) -> Account:
    write(places, secret, **changes)
    return load_account(places)


def fault_of(places: Places) -> PcmError:
    with pytest.raises(PcmError) as caught:
        load_account(places)
    return caught.value


def test_the_file_gives_a_login_with_its_realm(places: Places) -> None:
    account = account_of(places, "a word \r\nsecond line\n")
    login = parse_login(account.text_for(URL))
    assert login is not None
    assert (login.name, login.password, login.protocol) == ("svc-pcm@EXAMPLE.ORG", "a word ", "kerberos")
    assert account.describe() == "svc-pcm@EXAMPLE.ORG by its password (kerberos), for *.example.org"


@pytest.mark.parametrize(
    ("url", "servers", "holds"),
    [
        (URL, None, True),
        ("smb://FILES.Example.ORG:445/pcm/x", None, True),
        ("smb://files.example.org:4450/pcm/x", None, False),
        ("smb://nas:4450/pcm/x", ["nas"], False),
        ("smb://nas:4450/pcm/x", ["NAS:4450"], True),
        ("smb://a.lab:4450/pcm/x", ["*.lab:4450"], True),
        ("smb://example.org/pcm/x", None, False),
        ("smb://files.example.org.evil.net/pcm/x", None, False),
        ("smb://evilexample.org/pcm/x", None, False),
        ("smb://192.0.2.1/pcm/x", None, False),
        ("smb://nas/pcm/x", ["nas"], True),
        (URL, ["nas"], False),
        ("smb://a.b.lab/pcm/x", ["*.lab", "nas"], True),
    ],
)
def test_it_is_handed_to_servers_that_the_administrator_named_only(
    places: Places, url: str, servers: list[str] | None, holds: bool
) -> None:
    account = account_of(places, servers=servers)
    if holds:
        assert account.text_for(url)
        return
    with pytest.raises(TransferError) as caught:
        account.text_for(url)
    assert caught.value.code == "transfer.no_account"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"keytab": "/k"}, "either"),
        ({"password_file": None}, "either"),
        ({"domain": "EXAMPLE"}, "DNS name"),
        ({"domain": ""}, "DNS name"),
        ({"protocol": "ntlm"}, "servers"),
        ({"protocol": "ntlm", "keytab": "/k", "password_file": None, "servers": ["nas"]}, "Kerberos"),
        ({"protocol": "basic"}, "malformed"),
        ({"user": "a@b"}, "malformed"),
        ({"user": ""}, "malformed"),
        ({"pasword": "x"}, "malformed"),
        ({"password_file": "/does/not/exist"}, "/does/not/exist"),
        ({"secret": ""}, "no password"),
        ({"secret": "x" * 300}, "no password"),
        ({"secret": "\n"}, "no password"),
    ],
)
def test_each_mistake_in_the_file_is_told(places: Places, changes: dict[str, Any], told: str) -> None:
    write(places, **changes)
    error = fault_of(places)
    assert error.code == "request.account"
    assert told in error.message


def test_without_a_file_it_says_which_to_write(places: Places) -> None:
    error = fault_of(places)
    assert (error.code, str(places.account) in error.message) == ("request.account", True)


@pytest.mark.parametrize(("mode", "which"), [(0o640, "secret"), (0o604, "secret"), (0o666, "account.json")])
def test_what_others_can_read_or_change_is_not_used(places: Places, mode: int, which: str) -> None:
    write(places)
    (places.config / which).chmod(mode)
    error = fault_of(places)
    assert isinstance(error, MachineError)
    assert error.code == "machine.unprotected"
    assert "chmod" in error.message


def test_no_link_device_or_relative_path_is_read(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("x")
    (tmp_path / "real").chmod(0o600)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert read_private(tmp_path / "real", 10) == b"x"
    for path in (tmp_path / "link", Path("/dev/null"), tmp_path, Path("real")):
        with pytest.raises(MachineError):
            read_private(path, 10)


# ---- peace


def refusal(code: str = "transfer.account_refused") -> TransferError:
    return transfer_error(code, "The account cannot log on.")


def peace_at(places: Places, seed: int = 0) -> Peace:
    return Peace(places.account_rest, random.Random(seed))


def is_left_alone(peace: Peace, account: Account, now: datetime) -> bool:
    try:
        peace.require(account, now)
    except TransferError as error:
        assert "not tried again before" in error.message
        return True
    return False


@pytest.mark.parametrize("code", sorted(ACCOUNT_REFUSALS))
def test_q230242_q184858_a_refusal_is_remembered_over_processes_and_longer_each_time(places: Places, code: str) -> None:
    account, at = account_of(places), NOW
    pauses = WRONG_PAUSES if code == "transfer.account_refused" else PAUSES
    for pause in (*pauses, pauses[-1], pauses[-1]):
        peace_at(places).note(account, refusal(code), at)
        for later in (timedelta(0), timedelta(minutes=14), pause - timedelta(seconds=1)):
            assert is_left_alone(peace_at(places), account, at + later)
        with pytest.raises(TransferError) as caught:
            peace_at(places).require(account, at)
        assert caught.value.code == code
        at += 1.25 * pause
        assert not is_left_alone(peace_at(places), account, at)


def test_one_forged_refusal_silences_no_client_for_long(places: Places) -> None:
    """No refusal is signed: whoever answers once in a controller's stead must not keep a client from its shares for a day."""
    account = account_of(places)
    for code in ACCOUNT_REFUSALS:
        peace = peace_at(places)
        peace.note(account, refusal(code), NOW)
        assert not is_left_alone(peace, account, NOW + timedelta(minutes=75))
        peace.forget()  # the true controller takes it: what was forged counts no more
        peace.note(account, refusal(code), NOW)
        assert not is_left_alone(peace, account, NOW + timedelta(minutes=75))
        peace.forget()


def test_q184858_a_wrong_password_is_tried_twice_a_day_at_most(places: Places) -> None:
    """A lockout after three, counted over a whole day, is the strictest that is in use."""
    account, attempts = account_of(places), list[datetime]()
    for minute in range(0, 7 * 24 * 60, 5):
        now, peace = NOW + timedelta(minutes=minute), peace_at(places, minute)
        if not is_left_alone(peace, account, now):
            attempts.append(now)
            peace.note(account, refusal(), now)
    assert 7 <= len(attempts) <= 8
    assert all(later - first >= timedelta(hours=24) for first, later in zip(attempts, attempts[2:], strict=False))


def test_another_login_begins_with_a_short_rest(places: Places) -> None:
    for _ in range(3):
        peace_at(places).note(account_of(places), refusal(), NOW)
    other = account_of(places, "other\n")
    peace_at(places).note(other, refusal(), NOW)
    assert not is_left_alone(peace_at(places), other, NOW + 1.25 * WRONG_PAUSES[0])


def test_a_memory_of_an_earlier_version_counts_as_one(places: Places) -> None:
    account = account_of(places)
    peace_at(places).note(account, refusal(), NOW)
    told = json.loads(places.account_rest.read_bytes())
    del told["times"]
    places.account_rest.write_text(json.dumps(told))
    assert is_left_alone(peace_at(places), account, NOW)


def test_a_new_password_is_tried_at_once_and_the_same_one_is_not(places: Places) -> None:
    peace_at(places).note(account_of(places), refusal(), NOW)
    assert is_left_alone(peace_at(places), account_of(places, "word\n"), NOW)  # written anew: the same as before
    assert not is_left_alone(peace_at(places), account_of(places, "other\n"), NOW)
    assert not is_left_alone(peace_at(places), account_of(places, user="svc-other"), NOW)


def test_an_administrator_may_ask_sooner_but_a_wrong_password_only_once_an_hour(places: Places) -> None:
    account = account_of(places)
    for code, at_once in (("transfer.password_expired", True), ("transfer.account_refused", False)):
        peace_at(places).note(account, refusal(code), NOW)
        asked = peace_at(places)
        asked.force()
        assert is_left_alone(asked, account, NOW + timedelta(minutes=59)) is not at_once
        assert not is_left_alone(asked, account, NOW + timedelta(minutes=61))
        asked.note(account, refusal(code), NOW + timedelta(minutes=61))  # tried, in vain: that was the one attempt
        assert is_left_alone(asked, account, NOW + timedelta(minutes=61))


def test_other_failures_and_success_leave_nothing(places: Places) -> None:
    account = account_of(places)
    peace = peace_at(places)
    for code in ("transfer.unreachable", "transfer.refused", "transfer.kdc_unreachable", "transfer.clock_skew"):
        peace.note(account, transfer_error(code, "no"), NOW)
        assert not places.account_rest.exists()
    peace.note(account, refusal(), NOW)
    assert places.account_rest.stat().st_mode & 0o777 == 0o600
    assert "word" not in places.account_rest.read_text()
    peace.forget()
    assert not places.account_rest.exists()
    assert not is_left_alone(peace_at(places), account, NOW)


def test_a_wrong_clock_cannot_silence_an_account_for_years(places: Places) -> None:
    account = account_of(places)
    peace_at(places).note(account, refusal(), NOW + timedelta(days=3000))
    assert not is_left_alone(peace_at(places), account, NOW)


@pytest.mark.parametrize("damage", [b"", b"{}", b"nonsense", b"[" * 9000])
def test_a_damaged_memory_costs_one_attempt(places: Places, damage: bytes) -> None:
    places.account_rest.write_bytes(damage)
    assert not is_left_alone(peace_at(places), account_of(places), NOW)


# ---- the client


class Scripted:
    """A channel to a transfer process that answers each request with one line, and keeps what it was asked."""

    def __init__(self, *lines: dict[str, Any]) -> None:
        self.asked: list[dict[str, Any]] = []
        self._lines = [{"hello": 1, "hardened": []}, *lines]

    def read_into(self, buffer: memoryview, timeout_s: float) -> int:
        line = dict(self._lines.pop(0))
        if "hello" not in line:
            line["id"] = len(self.asked)
        tail = b"" if "error" in line or "hello" in line else bytes(4) + b'{"id":%d,"ok":true}\n' % line["id"]
        data = json.dumps(line).encode() + b"\n" + tail
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: bytes, timeout_s: float) -> None:
        line = json.loads(data.split(b"\n")[0])
        if "id" in line:
            self.asked.append(line)

    def send_file(self, data: bytes, file: int, timeout_s: float) -> None:
        raise AssertionError(data)

    def close(self) -> None:
        pass


def client_of(places: Places, channel: Channel) -> ShareClient:
    return ShareClient(lambda: channel, Settings(), places, lambda: NOW)


OK: dict[str, Any] = {"status": 200, "headers": {}}
NO = {"error": "transfer.account_refused", "message": "wrong"}


def test_only_questions_to_shares_carry_the_account(places: Places) -> None:
    write(places)
    channel = Scripted(OK, OK)
    client = client_of(places, channel)
    client.fetch(Request("https://files.example.org/x")).read()
    client.fetch(Request(URL)).read()
    assert [bool(asked["account"]) for asked in channel.asked] == [False, True]


def test_q184858_one_attempt_is_made_for_all_servers_of_a_domain(places: Places) -> None:
    write(places)
    channel = Scripted(NO)
    client = client_of(places, channel)
    for server in ("one", "two", "three"):
        with pytest.raises(TransferError) as caught:
            client.fetch(Request(f"smb://{server}.example.org/pcm/x"))
        assert caught.value.code == "transfer.account_refused"
    with pytest.raises(TransferError):  # nor by the next process
        client_of(places, channel).fetch(Request(URL))
    assert len(channel.asked) == 1


def test_without_an_account_no_question_leaves(places: Places) -> None:
    channel = Scripted()
    with pytest.raises(TransferError) as caught:
        client_of(places, channel).fetch(Request(URL))
    assert (caught.value.code, channel.asked) == ("transfer.no_account", [])
    assert isinstance(caught.value.__cause__, RequestError)


def test_a_refusal_that_cannot_be_kept_ends_the_check(places: Places) -> None:
    write(places)
    places.state.rmdir()
    with pytest.raises(MachineError):
        client_of(places, Scripted(NO)).fetch(Request(URL))
