"""The design's table of attacks, on a real site and a real client: each is refused under its own code, which the client and the
site show; nothing runs; and the next honest check does what was ordered.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from pcm.testing.hostile_server import MISBEHAVIOURS
from pcm.transport.signing import sign_request
from pcm.trust import metadata
from tests.e2e.fleet import Client, Site, served_site
from tests.e2e.thief import Thief, flipped, now_ms

YESTERDAY, LATER = timedelta(hours=5), timedelta(hours=2)


@dataclass
class Stage:
    """A site that has existed for some hours. `victim`, `other`: clients. `aged`: what their files were `YESTERDAY`."""

    site: Site
    victim: Client
    other: Client
    aged: list[tuple[Client, dict[str, bytes]]]
    offers: dict[str, str]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with served_site() as site:
        site.stop()
        site.serve(YESTERDAY)
        os.environ["PCM_TOKEN_FILE"] = str(site.token_of(YESTERDAY))
        try:
            site.make_package("tool")
            old = [site.enrol(name, ago=YESTERDAY) for name in ("aged-1", "aged-2")]
            offers = {client.client_id: site.order("tool", "--optional", group=client.home.name) for client in old}
            for client in old:
                assert client.once(ago=YESTERDAY)["problem"] is None
            aged = [(client, Thief(site, client).logon) for client in old]
            site.stop()
            site.serve(LATER)
            for client in old:
                site.order("tool", "--optional", "--program", "install", "-p", "MODE=slow", group=client.home.name)
                assert client.once(ago=LATER)["problem"] is None
        finally:
            del os.environ["PCM_TOKEN_FILE"]
        site.stop()
        site.serve()
        victim, other = site.enrol("victim"), site.enrol("other")
        for client in (victim, other):
            offers[client.client_id] = site.order("tool", "--optional", group=client.home.name)
            assert client.once()["problem"] is None
        yield Stage(site, victim, other, aged, offers)


@dataclass
class Crime:
    """One attack in progress: a client that is about to get a mandatory order, and somebody who is in between."""

    stage: Stage
    client: Client
    thief: Thief
    job: str
    yesterday: dict[str, bytes]

    @property
    def mine(self) -> str:
        return self.thief.mine


def begin(stage: Stage, client: Client, yesterday: dict[str, bytes] | None = None) -> Crime:
    job = stage.site.order("tool", "--program", "again", group=client.home.name)
    return Crime(stage, client, Thief(stage.site, client), job, yesterday or {})


def check_refused(crime: Crime, codes: set[str], begun: datetime) -> None:
    """The whole file, or the whole repository, is refused: at the client, at the site, in the trace of what is on offer."""
    newest = crime.client.pcmsvc_json("status")["refusals"][0]
    assert newest["code"] in codes, newest
    assert datetime.fromisoformat(newest["at"]) >= begun, newest
    assert newest["code"] in crime.client.why(crime.stage.offers[crime.client.client_id])
    shown = crime.stage.site.json("client", "show", crime.client.client_id)["refusals"]
    assert newest["code"] in {each["code"] for each in shown if datetime.fromisoformat(each["received"]) >= begun}, (
        shown
    )


def check_recovered(crime: Crime, before: list[str], *, overtake: int = 0) -> None:
    """The honest servers are back: the order is carried out, once, as if nothing had happened.

    A thief of the online key can use up version numbers; with `overtake` publications, the site is beyond them.
    """
    crime.stage.site.front.be_honest()
    for number in range(overtake):
        crime.stage.site.make_package(f"news-{now_ms()}-{number}")
    assert crime.client.once()["problem"] is None
    assert crime.stage.site.ran() == [*before, "tool 1.0 again"]
    assert crime.stage.site.job_states(crime.job) == {crime.client.client_id: "succeeded"}


# --- a stolen logon server: its folder and its lease key -------------------------------------------------------------------------


def replay_another_clients_files(crime: Crime) -> None:
    theirs = Thief(crime.stage.site, crime.stage.other)
    for name, data in theirs.logon.items():
        if name.startswith(theirs.mine):
            crime.thief.logon[crime.mine + name.removeprefix(theirs.mine)] = data


def let_the_lease_run_out(crime: Crime) -> None:
    crime.thief.lease(days=-1)


def mix_old_targets_under_a_new_name(crime: Crime) -> None:
    older, newer = crime.thief.versions("targets")[-2:]
    crime.thief.logon[f"{crime.mine}{newer}.targets.json"] = crime.thief.logon[f"{crime.mine}{older}.targets.json"]


def send_a_timestamp_without_end(crime: Crime) -> None:
    crime.thief.answer(f"logon/{crime.mine}timestamp.json", MISBEHAVIOURS["endless"])


def send_instructions_without_end(crime: Crime) -> None:
    (target,) = json.loads(crime.thief.targets())["signed"]["targets"].values()
    name = f"logon/{crime.mine}{target['hashes']['sha256']}.instructions.json"
    crime.thief.answer(name, MISBEHAVIOURS["endless-chunks"])


def flip_a_bit_of(role: str) -> Callable[[Crime], None]:
    def flip(crime: Crime) -> None:
        version = crime.thief.lease()
        (target,) = json.loads(crime.thief.targets())["signed"]["targets"].values()
        name = {
            "timestamp": "timestamp.json",
            "snapshot": f"{version}.snapshot.json",
            "targets": f"{crime.thief.versions('targets')[-1]}.targets.json",
            "instructions": f"{target['hashes']['sha256']}.instructions.json",
        }[role]
        data = crime.thief.logon[crime.mine + name]
        # of the timestamp, which nothing names by its hash, a digit of its signature
        place = data.index(b'"sig":"') + 9 if role == "timestamp" else None
        crime.thief.logon[crime.mine + name] = flipped(data, place)

    return flip


def put_a_root_of_ones_own(crime: Crime) -> None:
    root = json.loads(crime.thief.logon["roots/1.root.json"])["signed"]
    root["version"] = 2
    crime.thief.logon["roots/2.root.json"] = metadata.sign(root, (crime.thief.key("lease-site"),))


def sign_targets_with_the_lease_key(crime: Crime) -> None:
    crime.thief.instruct(crime.thief.key("lease-site"), {"instructions": []})


def sign_a_lease_from_the_future(crime: Crime) -> None:
    crime.thief.lease(version=now_ms() + 3_600_000)


def push_the_version_out_of_reach(crime: Crime) -> None:
    crime.thief.lease(version=2**60)


# --- a stolen policy key ---------------------------------------------------------------------------------------------------------


def write_another_file_with_a_known_serial(crime: Crime) -> None:
    serial = crime.client.pcmsvc_json("status")["serial"]
    crime.thief.instruct(crime.thief.key("policy"), {"serial": serial, "instructions": []})


def go_back_to_an_older_serial(crime: Crime) -> None:
    crime.thief.instruct(crime.thief.key("policy"), {"serial": 1})


def write_for_another_site(crime: Crime) -> None:
    crime.thief.instruct(crime.thief.key("policy"), {"site": "elsewhere"})


def write_a_file_that_has_expired(crime: Crime) -> None:
    crime.thief.instruct(crime.thief.key("policy"), {"expires": "2020-01-01T00:00:00Z"})


def write_in_an_unknown_version(crime: Crime) -> None:
    crime.thief.instruct(crime.thief.key("policy"), {"spec": "2.0"})


WHOLE_FILE: dict[str, tuple[Callable[[Crime], None], set[str]]] = {
    "replayed": (replay_another_clients_files, {"trust.wrong_recipient"}),
    "frozen": (let_the_lease_run_out, {"trust.freeze"}),
    "mixed": (mix_old_targets_under_a_new_name, {"trust.mix_and_match"}),
    "endless": (send_a_timestamp_without_end, {"trust.endless_data"}),
    "endless-body": (send_instructions_without_end, {"trust.endless_data"}),
    "flipped-timestamp": (flip_a_bit_of("timestamp"), {"trust.unsigned"}),
    "flipped-snapshot": (flip_a_bit_of("snapshot"), {"trust.mix_and_match"}),
    "flipped-targets": (flip_a_bit_of("targets"), {"trust.mix_and_match"}),
    "flipped-instructions": (flip_a_bit_of("instructions"), {"trust.mix_and_match"}),
    "rogue-root": (put_a_root_of_ones_own, {"trust.rogue_root"}),
    "lease-key-targets": (sign_targets_with_the_lease_key, {"trust.unsigned"}),
    "lease-key-future": (sign_a_lease_from_the_future, {"trust.clock"}),
    "lease-key-huge": (push_the_version_out_of_reach, {"trust.malformed"}),
    "policy-key-equivocation": (write_another_file_with_a_known_serial, {"trust.equivocation"}),
    "policy-key-serial": (go_back_to_an_older_serial, {"trust.rollback"}),
    "policy-key-site": (write_for_another_site, {"trust.wrong_site"}),
    "policy-key-expired": (write_a_file_that_has_expired, {"trust.expired"}),
    "policy-key-version": (write_in_an_unknown_version, {"trust.unknown_version"}),
}


@pytest.mark.parametrize("attack", WHOLE_FILE)
def test_what_a_stolen_logon_server_says_is_refused(stage: Stage, attack: str) -> None:
    act, codes = WHOLE_FILE[attack]
    begun, before = datetime.now(UTC), stage.site.ran()
    crime = begin(stage, stage.victim)
    act(crime)
    crime.thief.show(distribution=False)
    refused = crime.client.once(code=1)
    assert refused["problem"]["code"] in codes, refused
    assert stage.site.ran() == before
    check_refused(crime, codes, begun)
    check_recovered(crime, before)


def put_yesterdays_files_back(crime: Crime) -> None:
    crime.thief.logon = dict(crime.yesterday)


def lease_yesterdays_targets_anew(crime: Crime) -> None:
    name = max(name for name in crime.yesterday if name.startswith(crime.mine) and name.endswith(".targets.json"))
    crime.thief.lease(targets=crime.yesterday[name])
    crime.thief.logon.update(
        {name: data for name, data in crime.yesterday.items() if not name.endswith("timestamp.json")}
    )


@pytest.mark.parametrize("number", [0, 1], ids=["folder", "lease-key"])
def test_yesterdays_files_are_refused(stage: Stage, number: int) -> None:
    client, yesterday = stage.aged[number]
    begun, before = datetime.now(UTC), stage.site.ran()
    crime = begin(stage, client, yesterday)
    (put_yesterdays_files_back, lease_yesterdays_targets_anew)[number](crime)
    crime.thief.show(distribution=False)
    refused = client.once(code=1)
    assert refused["problem"]["code"] == "trust.rollback", refused
    assert stage.site.ran() == before
    check_refused(crime, {"trust.rollback"}, begun)
    check_recovered(crime, before)


# --- a stolen distribution server: its folder and the online key ------------------------------------------------------------------


def forget(client: Client) -> None:
    """As a client that sees all of the package repository for the first time; its floors stay."""
    for path in [
        *(client.home / "var" / "metadata").glob("packages-*"),
        client.home / "var" / "metadata" / "manifests",
    ]:
        shutil.rmtree(path, ignore_errors=True)


def flip_packages(role: str) -> Callable[[Crime], None]:
    def flip(crime: Crime) -> None:
        forget(crime.client)
        files = crime.thief.distribution
        if role == "policy":
            names = [name for name in files if name.startswith("targets/policy/")]
        else:
            names = [crime.thief.package_role(role)[0]]
        for name in names:
            place = files[name].index(b'"sig":"') + 9 if role == "timestamp" else None
            files[name] = flipped(files[name], place)

    return flip


def put_older_packages_back(crime: Crime) -> None:
    """All that the mirror had one publication ago, under a timestamp that was valid then."""
    _, timestamp = crime.thief.package_role("timestamp")
    _, snapshot = crime.thief.package_role("snapshot")
    timestamp["version"] -= 2
    snapshot["version"] -= 2
    crime.thief.finish_packages(snapshot, timestamp, crime.thief.key("online"))


def hold_a_publication_back(crime: Crime) -> None:
    """The mirror stands still while the site goes on: its files are whole and young, but older than the site says they must be."""
    frozen = dict(crime.thief.distribution)
    crime.stage.site.make_package(f"news-{now_ms()}")
    crime.job = crime.stage.site.order("tool", "--program", "again", group=crime.client.home.name)
    crime.thief = Thief(crime.stage.site, crime.client)
    crime.thief.distribution = frozen


def let_the_timestamp_run_out(crime: Crime) -> None:
    forget(crime.client)
    crime.thief.sign_packages(days=-1)


def put_a_package_root_of_ones_own(crime: Crime) -> None:
    root = json.loads(crime.thief.distribution["metadata/1.root.json"])["signed"]
    root["version"] = 2
    crime.thief.distribution["metadata/2.root.json"] = metadata.sign(root, (crime.thief.key("online"),))


def send_package_metadata_without_end(crime: Crime) -> None:
    crime.thief.answer("distribution/metadata/timestamp.json", MISBEHAVIOURS["endless"])


def sign_targets_with_the_online_key(crime: Crime) -> None:
    _, targets = crime.thief.package_role("targets")
    targets["version"] += 1
    crime.thief.sign_packages(targets=metadata.sign(targets, (crime.thief.key("online"),)))


WHOLE_REPOSITORY: dict[str, tuple[Callable[[Crime], None], set[str]]] = {
    "rolled-back": (put_older_packages_back, {"trust.rollback"}),
    "frozen-mirror": (hold_a_publication_back, {"trust.freeze"}),
    "expired": (let_the_timestamp_run_out, {"trust.freeze"}),
    "endless": (send_package_metadata_without_end, {"trust.endless_data"}),
    "rogue-root": (put_a_package_root_of_ones_own, {"trust.rogue_root"}),
    "flipped-timestamp": (flip_packages("timestamp"), {"trust.unsigned"}),
    "flipped-snapshot": (flip_packages("snapshot"), {"trust.mix_and_match"}),
    "flipped-targets": (flip_packages("targets"), {"trust.mix_and_match"}),
    "flipped-policy": (flip_packages("policy"), {"trust.mix_and_match"}),
    "online-key-targets": (sign_targets_with_the_online_key, {"trust.unsigned"}),
}


@pytest.mark.parametrize("attack", WHOLE_REPOSITORY)
def test_what_a_stolen_distribution_server_says_is_refused(stage: Stage, attack: str) -> None:
    act, codes = WHOLE_REPOSITORY[attack]
    begun, before = datetime.now(UTC), stage.site.ran()
    crime = begin(stage, stage.victim)
    first = crime.job
    act(crime)
    crime.thief.show(logon=False)
    crime.client.once(code=None)
    assert stage.site.ran() == before
    check_refused(crime, codes, begun)
    assert crime.client.item(crime.job)["code"] in codes
    if first == crime.job:
        check_recovered(crime, before)
    else:
        stage.site.front.be_honest()
        crime.client.once()
        assert stage.site.ran() == [*before, "tool 1.0 again", "tool 1.0 again"]


# --- one order is refused, the others are not -------------------------------------------------------------------------------------


def change_the_manifest(crime: Crime) -> None:
    """`sh -c …` instead of the packager's command, under the name that the old one had."""
    forget(crime.client)
    for name, data in list(crime.thief.distribution.items()):
        if "/tool/" in name:
            manifest = json.loads(data)
            manifest["programs"]["again"]["argv"] = ["/bin/sh", "-c", f"echo stolen >> {crime.stage.site.counter}"]
            crime.thief.distribution[name] = json.dumps(manifest).encode()


def flip_the_manifest(crime: Crime) -> None:
    forget(crime.client)
    for name, data in list(crime.thief.distribution.items()):
        if "/tool/" in name:
            crime.thief.distribution[name] = flipped(data)


def flip_the_team(crime: Crime) -> None:
    forget(crime.client)
    name, _ = crime.thief.package_role("main")
    crime.thief.distribution[name] = flipped(crime.thief.distribution[name])


def sign_the_team_with_the_online_key(crime: Crime) -> None:
    _, team = crime.thief.package_role("main")
    team["version"] += 1
    crime.thief.sign_packages(main=metadata.sign(team, (crime.thief.key("online"),)))


def forget_the_team(crime: Crime) -> None:
    _, snapshot = crime.thief.package_role("snapshot")
    _, timestamp = crime.thief.package_role("timestamp")
    del snapshot["meta"]["main.json"]
    crime.thief.finish_packages(snapshot, timestamp, crime.thief.key("online"))


ONE_ORDER: dict[str, tuple[Callable[[Crime], None], set[str]]] = {
    "command-line": (change_the_manifest, {"trust.endless_data"}),  # it is longer than the one that was signed
    "flipped-manifest": (flip_the_manifest, {"trust.mix_and_match"}),
    "flipped-team": (flip_the_team, {"trust.mix_and_match"}),
    "online-key-team": (sign_the_team_with_the_online_key, {"trust.unsigned"}),
    "online-key-forgets-team": (forget_the_team, {"trust.malformed"}),
}


@pytest.mark.parametrize("attack", ONE_ORDER)
def test_an_order_without_its_packagers_signature_is_refused(stage: Stage, attack: str) -> None:
    act, codes = ONE_ORDER[attack]
    before = stage.site.ran()
    crime = begin(stage, stage.victim)
    act(crime)
    crime.thief.show(logon=False)
    crime.client.once()
    assert stage.site.ran() == before
    check_item(crime, crime.job, codes)
    (row,) = stage.site.json("job", "show", crime.job)["assignments"]["items"]
    assert (row["state"], row["code"] in codes) == ("refused", True), row
    check_recovered(crime, before, overtake=2 if attack.startswith("online-key") else 0)


def check_item(crime: Crime, job: str, codes: set[str]) -> None:
    item = crime.client.item(job)
    assert (item["state"], item["code"] in codes) == ("refused", True), item
    assert item["code"] in crime.client.why(job)


def test_a_changed_package_file_never_runs(stage: Stage) -> None:
    begun, before = datetime.now(UTC), stage.site.ran()
    shutil.rmtree(stage.victim.home / "var" / "store", ignore_errors=True)
    crime = begin(stage, stage.victim)
    for name, data in list(crime.thief.distribution.items()):
        if name.startswith("objects/"):
            crime.thief.distribution[name] = flipped(data, len(data) - 3)
    crime.thief.show(logon=False)
    crime.client.once()
    assert stage.site.ran() == before
    check_item(crime, crime.job, {"trust.content"})
    shown = stage.site.json("client", "show", crime.client.client_id)["refusals"]
    received = {each["code"] for each in shown if datetime.fromisoformat(each["received"]) >= begun}
    assert received == {"trust.content"}
    check_recovered(crime, before)


STOLEN_POLICY: dict[str, tuple[dict[str, object], set[str]]] = {
    "unsigned-program": ({"program": "format-disk"}, {"trust.unsigned_program"}),
    "unsigned-parameters": ({"program": "install", "parameters": {"MODE": "--evil"}}, {"trust.arguments"}),
    "unknown-parameter": ({"program": "install", "parameters": {"EXTRA": "x"}}, {"trust.arguments"}),
    "without-approvals": ({"program": "uninstall"}, {"trust.approval"}),
    "other-release": ({"release": 99}, {"trust.manifest_mismatch"}),
    "other-version": ({"version": "6.6"}, {"trust.manifest_mismatch", "trust.unsigned_program"}),
    "no-such-dependency": ({"after": ["j0000000000"]}, {"trust.dependency"}),
}


@pytest.mark.parametrize("attack", STOLEN_POLICY)
def test_a_stolen_policy_key_orders_only_what_packagers_have_signed(stage: Stage, attack: str) -> None:
    """The thief's file itself is valid: it is the packagers' signatures that it cannot make."""
    changes, codes = STOLEN_POLICY[attack]
    before = stage.site.ran()
    crime = begin(stage, stage.other)
    order = crime.thief.instruction(crime.job, **changes)
    crime.thief.instruct(crime.thief.key("policy"), {"instructions": []}, more=order)
    crime.thief.show(distribution=False)
    crime.client.once()
    assert stage.site.ran() == before
    check_item(crime, str(order["job"]), codes)
    # a thief of the policy key can use up serials; the site's next file has a later one
    stage.site.front.be_honest()
    crime.job = stage.site.order("tool", "--program", "again", group=crime.client.home.name)
    assert crime.client.once()["problem"] is None
    assert stage.site.ran() == [*before, "tool 1.0 again", "tool 1.0 again"]


# --- the client's own files --------------------------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def fill(path: Path) -> None:
    path.write_bytes(b"\xff" * path.stat().st_size)


@pytest.mark.parametrize("damage", [truncate, fill, Path.unlink], ids=["truncated", "garbage", "lost"])
def test_any_damaged_cached_file_is_fetched_again(stage: Stage, damage: Callable[[Path], None]) -> None:
    before = stage.site.ran()
    crime = begin(stage, stage.victim)
    for folder in ("metadata", "store"):
        for path in sorted((crime.client.home / "var" / folder).rglob("*")):
            if path.is_file():
                damage(path)
    check_recovered(crime, before)


def test_a_lost_database_forgets_no_floor(stage: Stage) -> None:
    """The floors are remembered beside it, so yesterday's files are refused even then."""
    client, yesterday = stage.aged[1]
    before = stage.site.ran()
    assert client.once()["problem"] is None
    for path in (client.home / "var").glob("state.db*"):
        path.unlink()
    crime = begin(stage, client, yesterday)
    put_yesterdays_files_back(crime)
    crime.thief.show(distribution=False)
    refused = client.once(code=None)
    assert refused["problem"]["code"] in {"trust.rollback", "transfer.stale_server"}, refused
    assert stage.site.ran() == before
    stage.site.front.be_honest()
    # what it may have run before is not run again blindly; what is ordered from now on is
    assert client.once()["problem"] is None
    assert client.item(crime.job)["code"] == "store.history_lost"
    assert stage.site.ran() == before
    assert "store.rebuilt" in client.shown_refusals()
    crime.job = stage.site.order("tool", "--program", "again", group=client.home.name)
    check_recovered(crime, before)


# --- somebody else's files ---------------------------------------------------------------------------------------------------------


def ask(url: str, client: Client | None = None, method: str = "GET") -> tuple[int, str]:
    headers = {}
    if client is not None:
        key = load_pem_private_key((client.home / "var" / "identity.pem").read_bytes(), None)
        assert isinstance(key, EllipticCurvePrivateKey)
        headers = sign_request(method, url, None, key, client.client_id, datetime.now(UTC))
    try:
        with urlopen(Request(url, headers=dict(headers), method=method), timeout=10) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_client_reads_its_own_files_only(stage: Stage) -> None:
    url = f"{stage.site.front.url}/logon/clients/{{}}/timestamp.json"
    mine, theirs = url.format(stage.victim.client_id), url.format(stage.other.client_id)
    assert ask(mine, stage.victim)[0] == 200
    assert ask(theirs, stage.victim)[0] == 403
    status, told = ask(mine)
    assert (status, json.loads(told)["code"]) == (401, "trust.request_unsigned")
    assert ask(theirs.replace("timestamp.json", "client.pub"), stage.other)[0] in (403, 404)
    assert ask(f"{stage.site.front.url}/logon/roots/1.root.json")[0] == 200, "roots are public"


def test_nothing_is_left_running_by_all_this(stage: Stage) -> None:
    time.sleep(0.2)
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(stage.victim.home) not in listed
