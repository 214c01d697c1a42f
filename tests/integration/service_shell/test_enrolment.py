"""How a computer becomes a client, over real HTTP, and how it does not: nothing half-done, and each reason said."""

import json
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pcm.logon.app import Answer
from pcm.model.errors import RequestError
from pcm.protocol import codec
from pcm.protocol.enrolment import EnrolmentRequest
from pcm.service.places import find_places
from pcm.service.state import State
from tests.integration.service_shell.http_site import HttpSite, logon_over_http, report_of
from tests.integration.service_shell.static_site import Client, StaticSite


class Computer(Client):
    """Not enrolled yet."""

    def __post_init__(self) -> None:
        self.places = find_places(self.home)
        self.home.mkdir(parents=True)

    def kit(self, url: str, **changes: str) -> Path:
        path = self.home.parent / "kit.json"
        document = json.loads(codec.encode(self.site.configuration(logon=(url,))))
        path.write_text(json.dumps({**document, **changes}))
        return path

    def enroll(self, url: str, *arguments: str, code: int = 0) -> str:
        done = self.run("enroll", "--kit", str(self.kit(url)), *arguments, code=code)
        return done.stdout + done.stderr

    @property
    def is_configured(self) -> bool:
        return self.places.configuration.exists()


@pytest.fixture
def computer(site: StaticSite, tmp_path: Path) -> Computer:
    return Computer(site, tmp_path / "computer")


@pytest.fixture
def http(site: StaticSite) -> Iterator[HttpSite]:
    with logon_over_http(site) as served:
        yield served


def refuse(message: str) -> HttpSite:
    def answer(request: EnrolmentRequest, client_id: str) -> Answer:
        raise RequestError(message, code="not_allowed")

    return answer  # type: ignore[return-value]


def test_with_a_token_it_is_a_client_at_once(
    site: StaticSite, computer: Computer, http: HttpSite, marker: Path
) -> None:
    said = computer.enroll(http.url, "--token", "secret-token")
    request, client_id = http.enrolments[0]
    assert request.token == "secret-token"
    assert client_id in said
    assert stat.S_IMODE(computer.places.identity.stat().st_mode) == 0o600
    assert stat.S_IMODE(computer.places.state.stat().st_mode) == 0o711
    assert "secret-token" not in computer.places.configuration.read_text()
    computer.client_id = client_id
    site.order(client_id, [computer.mandatory(site.package(marker))])
    computer.once()
    assert marker.read_text() == "installed\n"


def test_the_token_may_come_from_a_file_or_standard_input(computer: Computer, http: HttpSite, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-file\n")
    computer.enroll(http.url, "--token-file", str(tmp_path / "token"))
    assert http.enrolments[0][0].token == "from-file"


def test_enrolling_again_is_safe_and_keeps_the_key(computer: Computer, http: HttpSite) -> None:
    computer.enroll(http.url, "--token", "a")
    key = computer.places.identity.read_bytes()
    computer.enroll(http.url)
    assert computer.places.identity.read_bytes() == key
    assert http.enrolments[0][1] == http.enrolments[1][1]


def test_with_a_new_key_it_becomes_another_client_and_its_floors_stay(
    site: StaticSite, computer: Computer, http: HttpSite, marker: Path
) -> None:
    computer.enroll(http.url, "--token", "a")
    before = http.enrolments[-1][1]
    computer.client_id = before
    package = site.package(marker)
    for serial in (1, 2, 3):  # a higher serial than the new client's first file will have
        site.order(before, [computer.mandatory(package)] if serial > 1 else [])
        assert computer.once()["problem"] is None
    assert report_of(http.taken[-1]).seq > 1
    old_key, reports = computer.places.identity.read_bytes(), len(http.taken)
    with State.open(computer.places.state, datetime.now(UTC)) as state:
        floors, releases = state.floors("packages"), state.releases()
    assert floors.roles

    http.answer_enrolment = refuse("This computer's key is revoked")  # type: ignore[assignment]
    assert "revoked" in computer.enroll(http.url, code=4)
    computer.enroll(http.url, "--new-key", "--token", "wrong", code=4)
    assert computer.places.identity.read_bytes() == old_key, "only once the site has taken the new one"
    http.answer_enrolment = None
    computer.enroll(http.url, "--new-key", "--token", "b")
    after = http.enrolments[-1][1]
    assert after != before
    assert (computer.places.state / f"identity-{before[:12]}.pem").read_bytes() == old_key
    assert not computer.places.new_identity.exists()

    computer.client_id = after
    marker.unlink()
    site.order(after, [computer.mandatory(package)])
    assert computer.once()["problem"] is None
    assert marker.exists(), "the new client's orders are its own"
    fresh = [report_of(envelope) for envelope in http.taken[reports:]]
    assert [report.seq for report in fresh] == list(range(1, len(fresh) + 1))
    assert (fresh[0].prev_sha256, fresh[0].client_id) == (None, after)
    assert fresh[0].facts is not None
    assert {outcome.instruction.partition(".")[2] for report in fresh for outcome in report.outcomes} == {after[:12]}
    with State.open(computer.places.state, datetime.now(UTC)) as state:
        assert set(state.releases()) == set(releases)
        for role, floor in floors.roles.items():
            assert state.floors("packages").version(role) >= floor.version
    assert len(computer.answer("ledger")["entries"]) == 2


def test_a_key_that_was_removed_by_hand_is_followed_by_a_chain_of_its_own(
    site: StaticSite, computer: Computer, http: HttpSite
) -> None:
    computer.enroll(http.url, "--token", "a")
    site.order(http.enrolments[-1][1], [])
    computer.once()
    computer.places.identity.unlink()
    computer.enroll(http.url, "--token", "b")
    site.order(http.enrolments[-1][1], [])
    reports = len(http.taken)
    assert computer.once()["problem"] is None
    assert report_of(http.taken[reports]).seq == 1


def test_a_first_enrolment_with_a_new_key_is_a_first_enrolment(computer: Computer, http: HttpSite) -> None:
    computer.enroll(http.url, "--new-key", "--token", "a")
    assert sorted(path.name for path in computer.places.state.glob("identity*")) == ["identity.pem"]


def test_without_a_token_it_waits_for_approval_and_begins_by_itself(
    site: StaticSite, computer: Computer, http: HttpSite
) -> None:
    state = "pending"

    def answer(request: EnrolmentRequest, client_id: str) -> Answer:
        if state == "enrolled":
            http.folder.write_key(client_id, request.public_key.encode())
        return Answer(200, json.dumps({"client_id": client_id, "state": state, "fingerprint": ""}).encode())

    http.answer_enrolment = answer
    said = computer.enroll(http.url)
    client_id = http.enrolments[0][1]
    assert "waits for approval" in said
    assert client_id[:4] + " " + client_id[4:8] in said
    site.order(client_id, [])
    assert "Waiting for an administrator" in computer.run("once").stdout
    state = "enrolled"
    assert computer.once()["problem"] is None
    assert computer.answer("status")["serial"] == 1


@pytest.mark.parametrize(
    "reason", ["This enrolment token is not known here.", "This enrolment token was used already", "it has expired"]
)
def test_a_token_that_does_not_count_is_named_and_nothing_is_configured(
    computer: Computer, http: HttpSite, reason: str
) -> None:
    http.answer_enrolment = refuse(reason)  # type: ignore[assignment]
    said = computer.enroll(http.url, "--token", "x", code=4)
    assert reason.rstrip(".") in said
    assert "Traceback" not in said
    assert not computer.is_configured
    http.answer_enrolment = None
    computer.enroll(http.url, "--token", "y")
    assert computer.is_configured


def test_an_unreachable_server_is_named(computer: Computer) -> None:
    said = computer.enroll("http://127.0.0.1:9/logon", "--token", "x", code=5)
    assert "http://127.0.0.1:9/logon" in said
    assert not computer.is_configured


@pytest.mark.parametrize(
    "lie",
    [b"", b"{}", b"[1]", b"\xff" * 100, b'{"client_id":"' + b"0" * 32 + b'","state":"enrolled","fingerprint":""}'],
)
def test_a_lying_server_enrols_nobody(computer: Computer, http: HttpSite, lie: bytes) -> None:
    http.answer_enrolment = lambda _request, _client: Answer(200, lie)
    said = computer.enroll(http.url, "--token", "x", code=5)
    assert "Traceback" not in said
    assert not computer.is_configured


def test_a_client_of_another_site_is_left_alone(computer: Computer, http: HttpSite) -> None:
    computer.enroll(http.url, "--token", "a")
    before = computer.places.configuration.read_bytes()
    kit = computer.kit(http.url, site="elsewhere")
    done = computer.run("enroll", "--kit", str(kit), "--token", "b", code=1)
    assert "[conflict]" in done.stderr
    assert computer.places.configuration.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (b"", 1, "malformed"),
        (b"[]", 1, "malformed"),
        (b'{"type":"pcm.manifest","spec":"1.0"}', 1, "wrong_type"),
        (b'{"type":"pcm.client-configuration","spec":"2.0"}', 1, "unknown_version"),
        (b"x" * 300_000, 1, "too_long"),
    ],
)
def test_a_bad_kit_is_refused_before_anything_is_made(
    computer: Computer, tmp_path: Path, content: bytes, code: int, said: str
) -> None:
    (tmp_path / "kit").write_bytes(content)
    done = computer.run("enroll", "--kit", str(tmp_path / "kit"), code=code)
    assert said in done.stderr
    assert not computer.places.identity.exists()


def test_a_kit_whose_root_is_no_root_is_refused(computer: Computer, http: HttpSite) -> None:
    kit = computer.kit(http.url, packages_root='{"signed": {"_type": "targets"}}')
    done = computer.run("enroll", "--kit", str(kit), code=1)
    assert "[request.kit]" in done.stderr
    assert not computer.places.identity.exists()


def test_check_names_each_requirement_and_its_remedy(site: StaticSite, computer: Computer, http: HttpSite) -> None:
    before = {each["name"]: each for each in computer.answer("check", code=1)["requirements"]}
    assert not before["enrolled"]["holds"]
    assert "pcmsvc enroll" in before["enrolled"]["remedy"]
    computer.enroll(http.url, "--token", "a")
    site.order(http.enrolments[0][1], [])
    after = {each["name"]: each for each in computer.answer("check", code=None)["requirements"]}
    missing = {name for name, each in after.items() if not each["holds"]}
    assert missing <= {"administrator rights", "network side"}  # without root
    computer.places.state.chmod(0o777)
    computer.places.configuration.chmod(0o666)
    unsafe = {each["name"]: each for each in computer.answer("check", code=1)["requirements"]}
    assert not unsafe["protected folders"]["holds"]
    assert str(computer.places.configuration) in unsafe["protected folders"]["message"]


@pytest.mark.needs("root")
def test_q181118_nothing_runs_from_folders_that_others_can_write(
    site: StaticSite, client: Client, marker: Path
) -> None:
    site.order(client.client_id, [client.mandatory(site.package(marker))])
    client.places.configuration.chmod(0o666)
    done = client.run("once", code=1)
    assert "[machine.unprotected]" in done.stderr
    assert not marker.exists()
    client.places.configuration.chmod(0o644)
    client.once()
    assert marker.exists()
