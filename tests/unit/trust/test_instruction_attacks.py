"""The attack table on one client's instruction repository: each attack has its code, and leaves the client as it was."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from pcm.model.errors import PcmError, Retry
from pcm.protocol.instructions import instructions_target
from pcm.trust import instruction_repository, metadata, roots
from pcm.trust.fetching import Deadline
from pcm.trust.instructions import Recipient, Seen, verify_instructions
from tests.unit.trust.simulated import (
    ME,
    OTHER,
    Server,
    SimulatedClient,
    SimulatedSite,
    ms,
    named,
    resigned,
    utc_now,
)


@pytest.fixture
def site() -> SimulatedSite:
    return SimulatedSite()


@pytest.fixture
def client(site: SimulatedSite, tmp_path: Path) -> SimulatedClient:
    return SimulatedClient(site, tmp_path)


def refused(client: SimulatedClient, server: Server | None = None, **arguments: object) -> PcmError:
    """Poll, expect a refusal, and check that nothing has changed."""
    before = client.state()
    with pytest.raises(PcmError) as caught:
        client.poll(server, **arguments)  # type: ignore[arg-type]
    assert client.state() == before
    return caught.value


def test_honest_instructions_are_accepted(site: SimulatedSite, client: SimulatedClient) -> None:
    site.instruct(site.body(serial=7))
    first = client.poll()
    assert (first.instructions.serial, first.changed, client.seen.serial) == (7, True, 7)
    assert not client.poll().changed
    assert first.time_floor_s == pytest.approx(utc_now().timestamp(), abs=30)
    assert first.valid_until - utc_now() < timedelta(days=3)


def test_an_unchanged_repository_costs_one_file_and_the_question_for_a_root(
    site: SimulatedSite, client: SimulatedClient
) -> None:
    site.instruct()
    client.poll()
    server = client.server()
    client.poll(server)
    assert server.asked == ["roots/2.root.json", f"clients/{ME}/timestamp.json"]


def replay(site: SimulatedSite, victim: str) -> dict[str, bytes]:
    """Another client's newest files under the victim's names."""
    files = dict(site.logon)
    for name, data in site.logon.items():
        if name.startswith(f"clients/{victim}/"):
            files[name.replace(victim, ME)] = data
    return files


def test_another_clients_newer_files_are_for_another_recipient(site: SimulatedSite, client: SimulatedClient) -> None:
    site.instruct()
    client.poll()
    site.instruct(client=OTHER, at=utc_now() + timedelta(days=1))
    assert refused(client, client.server(replay(site, OTHER))).code == "trust.wrong_recipient"
    # and the floors are not poisoned: the next honest poll goes through
    site.instruct(site.body(serial=2))
    assert client.poll().instructions.serial == 2


def test_another_clients_older_files_are_for_another_recipient_too(
    site: SimulatedSite, client: SimulatedClient
) -> None:
    site.instruct(client=OTHER, at=utc_now() - timedelta(days=1))
    site.instruct()
    client.poll()
    assert refused(client, client.server(replay(site, OTHER))).code == "trust.wrong_recipient"


def test_a_policy_key_that_signs_another_clients_body_for_me_is_refused(
    site: SimulatedSite, client: SimulatedClient
) -> None:
    site.instruct(site.body(OTHER))
    assert refused(client).code == "trust.wrong_recipient"


def test_two_targets_are_refused(site: SimulatedSite, client: SimulatedClient) -> None:
    tamper_targets(site, lambda signed: signed["targets"].update({instructions_target(OTHER): metadata.target(b"x")}))
    assert refused(client).code == "trust.wrong_recipient"


def test_no_target_is_refused(site: SimulatedSite, client: SimulatedClient) -> None:
    tamper_targets(site, lambda signed: signed["targets"].clear())
    assert refused(client).code == "trust.wrong_recipient"


def test_delegations_are_refused(site: SimulatedSite, client: SimulatedClient) -> None:
    tamper_targets(site, lambda signed: signed.update(delegations={"keys": {}, "roles": []}))
    assert refused(client).code == "trust.delegation"


def tamper_targets(site: SimulatedSite, change: object) -> None:
    """What a stolen policy key together with a lease key can sign."""
    now = ms(utc_now())
    signed = instruction_repository.sign_instructions(ME, site.body(), site.policy_key, now)
    targets = resigned(signed.targets, [site.policy_key], change)  # type: ignore[arg-type]
    lease = instruction_repository.sign_lease(targets, site.leases["a"], now)
    site.logon.update({**signed.files(), f"clients/{ME}/{now}.targets.json": targets, **lease.files(ME)})


@pytest.mark.parametrize("forged", ["targets", "snapshot", "timestamp"])
def test_metadata_signed_by_a_stranger_is_unsigned(site: SimulatedSite, client: SimulatedClient, forged: str) -> None:
    site.instruct()
    client.poll()
    stranger = named("stranger")
    if forged == "targets":
        site.policy_key = stranger
        site.instruct()
    elif forged == "timestamp":
        site.leases["a"] = stranger
        site.instruct()
    else:  # a snapshot by a stranger, under the timestamp of a stolen lease key
        files, version = site.instruct(), site.versions[ME]
        targets = files[f"clients/{ME}/{version}.targets.json"]
        snapshot = instruction_repository.sign_lease(targets, stranger, version).snapshot
        timestamp = metadata.header("timestamp", version, version / 1000 + 86_400)
        timestamp["meta"] = {"snapshot.json": metadata.entry(snapshot, version)}
        site.logon[f"clients/{ME}/{version}.snapshot.json"] = snapshot
        site.logon[f"clients/{ME}/timestamp.json"] = metadata.sign(timestamp, [site.leases["a"]])
    assert refused(client).code == "trust.unsigned"


def test_yesterdays_files_are_a_rollback(site: SimulatedSite, client: SimulatedClient) -> None:
    yesterday = site.instruct(at=utc_now() - timedelta(days=1))
    client.poll()
    site.instruct(site.body(serial=2), at=utc_now() - timedelta(hours=1))
    client.poll()
    error = refused(client, client.server(yesterday))
    assert (error.code, error.retry) == ("trust.rollback", Retry.NEVER)


def test_yesterdays_files_are_a_rollback_even_if_every_cached_file_is_lost(
    site: SimulatedSite, client: SimulatedClient
) -> None:
    yesterday = site.instruct(at=utc_now() - timedelta(days=1))
    site.instruct(site.body(serial=2), at=utc_now() - timedelta(hours=1))
    client.poll()
    client.current["i"] = None
    assert refused(client, client.server(yesterday)).code == "trust.rollback"


@pytest.mark.parametrize("role", ["targets", "snapshot"])
def test_an_older_role_under_a_fresh_timestamp_is_a_rollback(
    site: SimulatedSite, client: SimulatedClient, role: str
) -> None:
    """What a stolen lease key can sign: today's timestamp over yesterday's targets, or over an old snapshot version."""
    yesterday = site.instruct(at=utc_now() - timedelta(days=1))
    old_version = site.versions[ME]
    site.instruct(site.body(serial=2), at=utc_now() - timedelta(hours=1))
    client.poll()
    now, lease_key = ms(utc_now()), site.leases["a"]
    targets = yesterday[f"clients/{ME}/{old_version}.targets.json"]
    if role == "targets":
        files = instruction_repository.sign_lease(targets, lease_key, now).files(ME)
    else:
        old = instruction_repository.sign_lease(targets, lease_key, old_version)
        fresh = metadata.header("timestamp", now, now / 1000 + 86_400)
        fresh["meta"] = {"snapshot.json": metadata.entry(old.snapshot, old_version)}
        files = {**old.files(ME), f"clients/{ME}/timestamp.json": metadata.sign(fresh, [lease_key])}
    assert refused(client, client.server({**yesterday, **files})).code == "trust.rollback"


def test_an_old_root_is_a_rollback(site: SimulatedSite, client: SimulatedClient) -> None:
    site.release_root(roots.INSTRUCTIONS, site.sign_root(site.next_root(roots.INSTRUCTIONS)))
    site.instruct()
    client.poll()
    del site.logon["roots/2.root.json"]
    client.current["i"] = None  # with its cache the client would still know the root
    assert refused(client).code == "trust.rollback"


@pytest.mark.parametrize("keep_cache", [True, False])
def test_a_server_behind_by_less_than_two_minutes_is_stale(
    site: SimulatedSite, client: SimulatedClient, keep_cache: bool
) -> None:
    now = utc_now() - timedelta(hours=1)
    behind = site.instruct(at=now)
    site.instruct(at=now + timedelta(seconds=119), server="b")
    client.poll()
    if not keep_cache:
        client.current["i"] = None
    error = refused(client, client.server(behind))
    assert (error.code, error.retry) == ("transfer.stale_server", Retry.ELSEWHERE)


def test_a_server_behind_by_two_minutes_is_hostile(site: SimulatedSite, client: SimulatedClient) -> None:
    now = utc_now() - timedelta(hours=1)
    behind = site.instruct(at=now)
    site.instruct(at=now + timedelta(seconds=120), server="b")
    client.poll()
    assert refused(client, client.server(behind)).code == "trust.rollback"


def test_a_server_that_lacks_what_was_signed_a_moment_ago_is_stale(
    site: SimulatedSite, client: SimulatedClient
) -> None:
    """It renewed its lease on last month's targets a second after another server had today's."""
    old = site.instruct(at=utc_now() - timedelta(days=2))
    old_targets = old[f"clients/{ME}/{site.versions[ME]}.targets.json"]
    site.instruct(site.body(serial=2), server="b")
    client.poll()
    renewed = instruction_repository.sign_lease(old_targets, site.leases["a"], site.versions[ME] + 1)
    assert refused(client, client.server({**old, **renewed.files(ME)})).code == "transfer.stale_server"


def test_an_equal_version_with_other_content_changes_nothing(site: SimulatedSite, client: SimulatedClient) -> None:
    site.instruct(site.body(serial=1))
    client.poll()
    version = site.versions[ME]
    other = instruction_repository.sign_instructions(ME, site.body(serial=9), site.policy_key, version)
    lease = instruction_repository.sign_lease(other.targets, site.leases["a"], version)
    verified = client.poll(client.server({**site.logon, **other.files(), **lease.files(ME)}))
    assert (verified.instructions.serial, verified.changed) == (1, False)


def test_an_equal_version_with_other_content_and_a_lost_cache_is_caught_by_the_serial(
    site: SimulatedSite, client: SimulatedClient
) -> None:
    site.instruct(site.body(serial=4))
    client.poll()
    client.current["i"] = None
    version = site.versions[ME]
    other = instruction_repository.sign_instructions(ME, site.body(serial=3), site.policy_key, version)
    lease = instruction_repository.sign_lease(other.targets, site.leases["a"], version)
    assert refused(client, client.server({**site.logon, **other.files(), **lease.files(ME)})).code == "trust.rollback"


def test_an_expired_lease_is_a_freeze(site: SimulatedSite, client: SimulatedClient) -> None:
    site.instruct(at=utc_now() - timedelta(days=3, minutes=1))
    assert refused(client).code == "trust.freeze"


def test_a_lease_that_expired_in_the_cache_is_a_freeze(site: SimulatedSite, client: SimulatedClient) -> None:
    site.instruct()
    folder = client.poll().folder
    now = ms(utc_now() - timedelta(days=4))
    version, targets = site.versions[ME], (folder / "targets.json").read_bytes()
    expired = instruction_repository.sign_lease(targets, site.leases["a"], now, targets_version=version)
    (folder / "snapshot.json").write_bytes(expired.snapshot)
    (folder / "timestamp.json").write_bytes(expired.timestamp)
    client.seen = Seen()
    assert refused(client, client.server({**site.logon, **expired.files(ME)})).code == "trust.freeze"


def test_an_expired_root_is_a_freeze(site: SimulatedSite, client: SimulatedClient) -> None:
    staged = site.next_root(roots.INSTRUCTIONS)
    staged.set_expiry(utc_now().timestamp() - 60)
    site.release_root(roots.INSTRUCTIONS, site.sign_root(staged))
    site.instruct()
    assert refused(client).code == "trust.freeze"


def test_expired_targets_are_a_freeze(site: SimulatedSite, client: SimulatedClient) -> None:
    now = ms(utc_now())
    signed = instruction_repository.sign_instructions(ME, site.body(), site.policy_key, now - 31 * 86_400_000)
    site.logon.update(
        {**signed.files(), **instruction_repository.sign_lease(signed.targets, site.leases["a"], now).files(ME)}
    )
    assert refused(client).code == "trust.freeze"


def test_mixing_two_states_is_mix_and_match(site: SimulatedSite, client: SimulatedClient) -> None:
    first = site.instruct(site.body(serial=1))
    old = site.versions[ME]
    site.instruct(site.body(serial=2))
    new = site.versions[ME]
    mixed = dict(site.logon)
    mixed[f"clients/{ME}/{new}.targets.json"] = first[f"clients/{ME}/{old}.targets.json"]
    assert refused(client, client.server(mixed)).code == "trust.mix_and_match"
    mixed = dict(site.logon)
    mixed[f"clients/{ME}/{new}.snapshot.json"] = first[f"clients/{ME}/{old}.snapshot.json"]
    assert refused(client, client.server(mixed)).code == "trust.mix_and_match"


def test_a_changed_body_is_mix_and_match(site: SimulatedSite, client: SimulatedClient) -> None:
    site.instruct()
    name = next(name for name in site.logon if name.endswith(".instructions.json"))
    site.logon[name] = site.logon[name].replace(b'"serial":1', b'"serial":2')
    assert refused(client).code == "trust.mix_and_match"


@pytest.mark.parametrize(
    "which", ["timestamp.json", "snapshot.json", "targets.json", "instructions.json", "2.root.json"]
)
def test_endless_data_is_cut_off(site: SimulatedSite, client: SimulatedClient, which: str) -> None:
    site.instruct()
    served = 0

    def endless(_name: str, data: bytes) -> Iterator[bytes]:
        nonlocal served
        while True:
            served += 1000
            yield b" " * 1000

    names = [name for name in [*site.logon, "roots/2.root.json"] if name.endswith(which)]
    server = Server(site.logon, dict.fromkeys(names, endless))
    assert refused(client, server).code == "trust.endless_data"
    assert served <= 66_000


def test_a_signed_length_beyond_the_limit_does_not_widen_it(site: SimulatedSite, client: SimulatedClient) -> None:
    """A stolen lease key could promise a snapshot of a terabyte."""
    site.instruct()
    name = f"clients/{ME}/timestamp.json"
    site.logon[name] = resigned(
        site.logon[name], [site.leases["a"]], lambda signed: signed["meta"]["snapshot.json"].update(length=10**12)
    )
    snapshot = f"clients/{ME}/{site.versions[ME]}.snapshot.json"
    server = Server(site.logon, {snapshot: lambda _name, _data: iter([b" " * 4097])})
    assert refused(client, server).code == "trust.endless_data"


def test_a_dripping_server_runs_into_the_deadline(site: SimulatedSite, client: SimulatedClient) -> None:
    site.instruct()
    ticks = iter(range(0, 10_000, 10))
    with pytest.raises(PcmError) as caught:
        verify_instructions(
            client.me,
            client.pinned[0],
            None,
            client.folder / "copy",
            seen=Seen(),
            fetch=client.server(),
            now=utc_now(),
            deadline=Deadline(30, lambda: float(next(ticks))),
        )
    assert caught.value.code == "transfer.too_slow"
    assert not (client.folder / "copy").exists()


def test_a_rogue_root_is_refused(site: SimulatedSite, client: SimulatedClient) -> None:
    site.instruct()
    mallory = [named("m1"), named("m2"), named("m3")]
    own = SimulatedSite()
    own.keepers = mallory
    rogue = own.next_root(roots.INSTRUCTIONS)
    site.logon["roots/2.root.json"] = resigned(rogue.to_bytes(), mallory, lambda _signed: None)
    assert refused(client).code == "trust.rogue_root"


def test_a_root_below_its_threshold_is_rogue(site: SimulatedSite, client: SimulatedClient) -> None:
    site.instruct()
    staged = site.next_root(roots.INSTRUCTIONS)
    staged.sign(site.keepers[0])
    site.logon["roots/2.root.json"] = staged.to_bytes()
    assert refused(client).code == "trust.rogue_root"


def test_the_other_repositorys_root_is_rogue_though_the_same_keepers_signed_it(
    site: SimulatedSite, client: SimulatedClient
) -> None:
    site.instruct()
    site.logon["roots/2.root.json"] = site.sign_root(site.next_root(roots.PACKAGES))
    assert refused(client).code in {"trust.rogue_root", "trust.unsigned"}
    # even with metadata that this root's online key signed
    signed = instruction_repository.sign_instructions(ME, site.body(), site.targets_key, ms(utc_now()))
    lease = instruction_repository.sign_lease(signed.targets, site.online, ms(utc_now()))
    site.logon.update({**signed.files(), **lease.files(ME)})
    assert refused(client).code == "trust.rogue_root"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"site": "elsewhere"}, "trust.wrong_site"),
        ({"spec": "2.0"}, "trust.unknown_version"),
        ({"expires": utc_now() - timedelta(seconds=1)}, "trust.expired"),
        ({"min_client_version": "1.1"}, "trust.client_too_old"),
    ],
)
def test_a_body_that_is_not_for_this_client_now(
    site: SimulatedSite, client: SimulatedClient, changes: dict[str, object], code: str
) -> None:
    site.instruct(site.body(**changes))  # type: ignore[arg-type]
    assert refused(client).code == code


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"type":"pcm.manifest","spec":"1.0"}', "trust.wrong_type"),
        (b"{", "trust.malformed"),
        (b"[" * 100_000, "trust.malformed"),
        (b"", "trust.malformed"),
        (b'{"type":"pcm.instructions","spec":"1.0"}', "trust.malformed"),
        (b"\xff\xfe", "trust.malformed"),
    ],
)
def test_a_body_that_is_no_instruction_file(
    site: SimulatedSite, client: SimulatedClient, body: bytes, code: str
) -> None:
    site.instruct(body)
    assert refused(client).code == code


def test_a_body_over_the_limit_is_not_even_fetched(site: SimulatedSite, client: SimulatedClient) -> None:
    site.instruct(b" " * (8 * 2**20 + 1))
    server = client.server()
    assert refused(client, server).code == "trust.endless_data"
    assert not any(name.endswith(".instructions.json") for name in server.asked)


def test_a_serial_that_goes_back_is_a_rollback(site: SimulatedSite, client: SimulatedClient) -> None:
    site.instruct(site.body(serial=5))
    client.poll()
    site.instruct(site.body(serial=4))
    assert refused(client).code == "trust.rollback"


def test_one_serial_for_two_files_is_equivocation(site: SimulatedSite, client: SimulatedClient) -> None:
    site.instruct(site.body(serial=5))
    client.poll()
    site.instruct(site.body(serial=5, poll_after_s=60))
    assert refused(client).code == "trust.equivocation"


def test_a_fork_of_the_client_id_does_not_matter(site: SimulatedSite, client: SimulatedClient) -> None:
    client.me = Recipient("hq", OTHER, "1.0")
    site.instruct(client=OTHER)
    assert client.poll().instructions.client_id == OTHER


def test_a_missing_lease_is_a_transfer_error_not_an_attack(client: SimulatedClient) -> None:
    assert refused(client).code == "transfer.not_found"
