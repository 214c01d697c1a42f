"""Roots and delegations: changed, signed by one keeper after another, finished only when every threshold holds."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pcm.model.errors import RequestError
from pcm.protocol.policy import Approver, SitePolicy
from pcm.trust import ceremony, delegations, metadata, new_site, package_repository, roots
from pcm.trust.floors import Floors
from pcm.trust.keyring import Keyring
from pcm.trust.packages import verify_packages
from tests.unit.trust.simulated import (
    SITE,
    Server,
    SimulatedClient,
    SimulatedSite,
    a_manifest,
    named,
    resigned,
    role,
    utc_now,
)


def code_of(action: object) -> str:
    with pytest.raises(RequestError) as caught:
        action()  # type: ignore[operator]
    return caught.value.code


@pytest.fixture
def site() -> SimulatedSite:
    return SimulatedSite()


def test_signatures_come_one_keyring_after_another(site: SimulatedSite) -> None:
    current = site.package_roots[0]
    staged = roots.StagedRoot.after(current, site.year).to_bytes()
    for keeper in site.keepers[:2]:
        session = roots.StagedRoot.load(staged, current)
        assert code_of(session.finish) == "request.threshold"
        session.sign(keeper)
        staged = session.to_bytes()
    status = roots.StagedRoot.load(staged, current).status()
    assert status.complete
    assert [(item.source, item.missing, item.signed, item.unsigned) for item in status.requirements] == [
        ("root 1", 0, ("root-1", "root-2"), ("root-3",)),
        ("root 2", 0, ("root-1", "root-2"), ("root-3",)),
    ]
    assert json.loads(roots.StagedRoot.load(staged, current).finish())["signed"]["version"] == 2


def test_every_change_throws_the_signatures_away(site: SimulatedSite) -> None:
    changes: list[Callable[[roots.StagedRoot], None]] = [
        lambda staged: staged.add_key("root", named("new").public_key),
        lambda staged: staged.remove_key("root", site.keepers[0].public_key.keyid),
        lambda staged: staged.set_threshold("root", 1),
        lambda staged: staged.set_expiry(site.year + 1),
    ]
    for change in changes:
        staged = site.next_root(roots.PACKAGES)
        staged.sign(site.keepers[0])
        change(staged)
        assert staged.status().requirements[0].signed == ()


def test_a_new_root_key_must_sign_and_the_old_ones_too(site: SimulatedSite) -> None:
    fresh = [named("root-4"), named("root-5"), named("root-6")]
    staged = site.next_root(roots.PACKAGES)
    for keeper in site.keepers:
        staged.remove_key("root", keeper.public_key.keyid)
    for keeper in fresh:
        staged.add_key("root", keeper.public_key)
    for keeper in fresh:
        staged.sign(keeper)
    assert [item.missing for item in staged.status().requirements] == [2, 0]
    assert code_of(staged.finish) == "request.threshold"
    staged.sign(site.keepers[0])
    assert code_of(staged.finish) == "request.threshold"
    staged.sign(site.keepers[1])
    assert staged.finish()


@pytest.mark.parametrize("threshold", [0, 4, -1])
def test_impossible_thresholds(site: SimulatedSite, threshold: int) -> None:
    staged = site.next_root(roots.PACKAGES)
    staged.set_threshold("root", threshold)
    assert code_of(lambda: staged.sign(site.keepers[0])) == "request.threshold"


def test_a_role_without_keys_is_never_signed(site: SimulatedSite) -> None:
    staged = site.next_root(roots.PACKAGES)
    staged.remove_key("targets", site.targets_key.public_key.keyid)
    assert code_of(lambda: staged.sign(site.keepers[0])) == "request.threshold"


def test_unknown_roles_and_keys(site: SimulatedSite) -> None:
    staged = site.next_root(roots.PACKAGES)
    assert code_of(lambda: staged.add_key("mirror", named("x").public_key)) == "not_found"
    assert code_of(lambda: staged.remove_key("root", "ab")) == "not_found"
    assert code_of(lambda: staged.set_threshold("x", 1)) == "not_found"
    assert code_of(lambda: staged.sign(named("stranger"))) == "request.key"


def test_a_staged_root_must_follow_the_one_in_force(site: SimulatedSite) -> None:
    staged = site.next_root(roots.PACKAGES).to_bytes()
    site.release_root(roots.PACKAGES, site.sign_root(site.next_root(roots.PACKAGES)))
    assert code_of(lambda: roots.StagedRoot.load(staged, site.package_roots[-1])) == "conflict"


def test_a_root_says_whose_it_is(site: SimulatedSite) -> None:
    assert roots.mark_of(ceremony.load_root(site.package_roots[0]).signed) == {"repository": "packages", "site": SITE}
    every = dict.fromkeys(metadata.TOP_LEVEL_ROLES, role(named("x")))
    assert code_of(lambda: roots.StagedRoot.first("other", SITE, every, 2e9)) == "request.metadata"
    assert code_of(lambda: roots.StagedRoot.first(roots.PACKAGES, "../x", every, 2e9)) == "request.name"
    del every["root"]
    assert code_of(lambda: roots.StagedRoot.first(roots.PACKAGES, SITE, every, 2e9)) == "request.metadata"


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"null", b"\x00", b'{"signed":{"_type":"root"},"signatures":[]}', b"[" * 9000]
)
def test_damaged_documents(site: SimulatedSite, data: bytes) -> None:
    assert code_of(lambda: roots.StagedRoot.load(data, None)) == "request.metadata"
    assert code_of(lambda: delegations.StagedTargets.load(data, site.package_roots[0])) == "request.metadata"
    assert code_of(lambda: metadata.read_version(data, "targets")) == "request.metadata"


def test_one_kind_of_document_is_not_another(site: SimulatedSite) -> None:
    assert code_of(lambda: roots.StagedRoot.load(site.top, None)) == "request.metadata"
    assert code_of(lambda: metadata.read_version(site.top, "snapshot")) == "request.metadata"


def test_a_root_that_clients_would_not_read_is_not_finished(site: SimulatedSite) -> None:
    staged = site.next_root(roots.PACKAGES)
    for number in range(400):
        staged.add_key("timestamp", named(f"online-{number}").public_key)
    staged.sign(site.keepers[0])
    staged.sign(site.keepers[1])
    assert code_of(staged.finish) == "request.too_long"


def test_status_names_roles_and_keys(site: SimulatedSite) -> None:
    status = roots.read_status(site.instruction_roots[0])
    assert status.complete
    assert {item.role: (item.threshold, sorted(item.keys)) for item in status.roles} == {
        "root": (2, ["root-1", "root-2", "root-3"]),
        "targets": (1, ["policy"]),
        "snapshot": (1, ["lease-a", "lease-b"]),
        "timestamp": (1, ["lease-a", "lease-b"]),
    }


def test_teams_are_added_rotated_and_revoked(site: SimulatedSite) -> None:
    staged = delegations.StagedTargets.after(site.top, site.package_roots[0], site.year)
    staged.set_team("tools", [named("t1").public_key, named("t2").public_key], 2)
    staged.revoke_team("games")
    staged.set_team("apps", [named("apps-new").public_key])
    staged.sign(site.targets_key)
    status = staged.status()
    assert {item.role: (item.threshold, sorted(item.keys)) for item in status.roles} == {
        "tools": (2, ["t1", "t2"]),
        "apps": (1, ["apps-new"]),
    }
    # keys that no team uses any more are gone from the file
    assert site.teams["games"].public_key.keyid.encode() not in staged.finish()


@pytest.mark.parametrize("team", ["root", "targets", "snapshot", "timestamp", "A", "a/b", "*", "a[b]", ""])
def test_team_names_that_would_mean_something_else(site: SimulatedSite, team: str) -> None:
    staged = delegations.StagedTargets.after(site.top, site.package_roots[0], site.year)
    assert code_of(lambda: staged.set_team(team, [named("x").public_key])) == "request.name"


def test_delegations_need_the_targets_key(site: SimulatedSite) -> None:
    staged = delegations.StagedTargets.after(site.top, site.package_roots[0], site.year)
    assert code_of(lambda: staged.sign(site.teams["apps"])) == "request.key"
    assert code_of(staged.finish) == "request.threshold"
    assert code_of(lambda: staged.revoke_team("nobody")) == "not_found"
    assert code_of(lambda: staged.set_team("x", [], 1)) == "request.threshold"


def test_a_team_may_hand_in_only_its_own_next_targets(site: SimulatedSite) -> None:
    apps, games = site.teams["apps"], site.teams["games"]
    current = site.team_files["apps"]
    good = package_repository.sign_team_again("apps", current, [apps], site.year)
    assert delegations.check_team_targets(site.top, "apps", good, current) == 2
    forged = package_repository.sign_team_again("apps", current, [games], site.year)
    for team, offered in (("apps", forged), ("games", good), ("nobody", good)):
        assert code_of(partial(delegations.check_team_targets, site.top, team, offered, current)) == "not_allowed"
    skipped = package_repository.sign_team_again("apps", good, [apps], site.year)
    assert code_of(lambda: delegations.check_team_targets(site.top, "apps", skipped, current)) == "conflict"
    assert code_of(lambda: delegations.check_team_targets(site.top, "apps", current, current)) == "conflict"


def test_a_team_that_delegates_further_is_not_published(site: SimulatedSite) -> None:
    offered = resigned(
        site.team_files["apps"],
        [site.teams["apps"]],
        lambda signed: signed.update(version=2, delegations={"keys": {}, "roles": []}),
    )
    action = partial(delegations.check_team_targets, site.top, "apps", offered, site.team_files["apps"])
    assert code_of(action) == "not_allowed"


def test_targets_outside_the_teams_paths_are_not_signed(site: SimulatedSite) -> None:
    for path in (
        "packages/games/x/1/manifest.json",
        "policy/site.json",
        "packages/apps/x/1/2/manifest.json",
        "packages/apps/../1/manifest.json",
    ):
        with pytest.raises(RequestError):
            package_repository.add_target("apps", None, path, b"x", [site.teams["apps"]], site.year)


def test_a_role_holds_ten_thousand_targets_and_no_more(site: SimulatedSite) -> None:
    described = metadata.target(b"x")
    many = {f"packages/apps/p{n}/1/manifest.json": described for n in range(package_repository.MAX_TARGETS)}
    full = package_repository.team_targets("apps", many, 1, [site.teams["apps"]], site.year)
    assert len(full) < 5_000_000
    path = "packages/apps/one-more/1/manifest.json"
    assert (
        code_of(lambda: package_repository.add_target("apps", full, path, b"x", [site.teams["apps"]], site.year))
        == "request.too_many_targets"
    )


def test_withdrawing_what_was_never_published(site: SimulatedSite) -> None:
    path = "packages/apps/x/1/manifest.json"
    current, signers = site.team_files["apps"], [site.teams["apps"]]
    assert code_of(lambda: package_repository.remove_target("apps", current, path, signers, site.year)) == "not_found"


def test_a_snapshot_never_takes_a_role_back_or_forgets_one(site: SimulatedSite) -> None:
    old = site.team_files["apps"]
    site.publish_manifest(a_manifest())
    assert code_of(lambda: site.publish({"apps": old})) == "request.rollback"
    site.change_targets(lambda staged: staged.revoke_team("games"))
    version = json.loads(site.distribution["metadata/timestamp.json"])["signed"]["meta"]["snapshot.json"]["version"]
    meta = json.loads(site.distribution[f"metadata/{version}.snapshot.json"])["signed"]["meta"]
    assert set(meta) == {"targets.json", "apps.json", "games.json"}


def test_a_new_site_can_be_read_by_its_clients(tmp_path: Path) -> None:
    offline, online = Keyring(tmp_path / "off", lambda: "p", rounds=2), Keyring(tmp_path / "on")
    plan = new_site.Plan("lab", servers=["s1", "s2"], teams=["apps"], approvers=["ann"])
    made = new_site.make_site(plan, offline, online, utc_now().timestamp(), policy=SitePolicy(site="lab", spread_s=60))
    assert offline.names() == ["approver-ann", "root-1", "root-2", "root-3", "targets", "team-apps"]
    assert online.names() == ["lease-s1", "lease-s2", "online", "policy"]
    assert made.policy.approvers == (Approver("ann", offline.public("approver-ann").keyval["public"]),)
    assert roots.read_status(made.package_root).requirements[0].threshold == 2

    packages = verify_packages(
        "lab", made.package_root, None, tmp_path / "p", stored=Floors(), least={}, fetch=Server(made.distribution)
    )
    assert packages.policy == made.policy
    assert set(packages.close().roles) == {"root", "targets", "snapshot", "timestamp"}


def test_a_small_site_of_one_keeper(tmp_path: Path) -> None:
    plan = new_site.Plan("demo", ["s"], ["t"], keepers=1, threshold=1)
    made = new_site.make_site(plan, Keyring(tmp_path / "off"), Keyring(tmp_path / "on"), utc_now().timestamp())
    assert roots.read_status(made.instruction_root).complete


@pytest.mark.parametrize(
    "plan",
    [
        new_site.Plan("x", [], ["t"]),
        new_site.Plan("x", ["s"], []),
        new_site.Plan("x", ["s"], ["t"], keepers=1, threshold=2),
    ],
)
def test_an_impossible_site_makes_no_keys(tmp_path: Path, plan: new_site.Plan) -> None:
    with pytest.raises(RequestError):
        new_site.make_site(plan, Keyring(tmp_path / "off"), Keyring(tmp_path / "on"), 2e9)
    assert not list(tmp_path.rglob("*.pem"))


def test_clients_follow_a_complete_change_of_keepers(site: SimulatedSite, tmp_path: Path) -> None:
    site.instruct()
    client = SimulatedClient(site, tmp_path)
    client.poll()
    fresh = [named(f"root-{n}") for n in (4, 5, 6)]
    staged = site.next_root(roots.INSTRUCTIONS)
    for keeper in site.keepers:
        staged.remove_key("root", keeper.public_key.keyid)
    for keeper in fresh:
        staged.add_key("root", keeper.public_key)
    site.release_root(roots.INSTRUCTIONS, site.sign_root(staged, *site.keepers[:2], *fresh[:2]))
    site.instruct(site.body(serial=2))
    assert client.poll().seen.floors.version("root") == 2
    # the old keepers can no longer change anything
    staged = site.next_root(roots.INSTRUCTIONS)
    assert code_of(lambda: staged.sign(site.keepers[0])) == "request.key"
