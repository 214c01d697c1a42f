"""A key of each role gets into wrong hands and is revoked by the real ceremony: clients follow, and what the old key signs is refused."""

import json
import shutil
import time
from collections.abc import Callable, Iterator

import pytest
from securesystemslib.signer import Signer

from pcm.trust import metadata, package_repository
from pcm.trust.keyring import Keyring
from tests.e2e.fleet import PASSPHRASE, Client, Site, served_site
from tests.e2e.thief import Thief


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with served_site() as made:
        made.make_package("tool")
        yield made


@pytest.fixture
def client(site: Site, request: pytest.FixtureRequest) -> Client:
    made = site.enrol(request.node.name.translate(str.maketrans("_[", "--", "]")))
    site.order("tool", "--optional", group=made.home.name)
    assert made.once()["problem"] is None
    return made


def rotate(site: Site, role: str, old: str, new: str, *, online: bool = False) -> None:
    """Revoke `old` and put `new` in its place, as keepers do."""
    keys = site.root / "keys" if online else site.keys
    staged = site.folder / f"ceremony-{new}"
    site.pcm("key", "init", new, "--keys", keys, *(["--no-passphrase"] if online else []))
    site.pcm("key", "rotate", role, old, keys / f"{new}.json", "--in", staged)
    site.pcm("key", "sign", "--in", staged, "--keys", site.keys, "--yes")
    site.pcm("key", "publish", "--in", staged, "--yes")


def offline(site: Site, name: str) -> Signer:
    return Keyring(site.keys, lambda: PASSPHRASE).signer(name)


def online(site: Site, name: str) -> Signer:
    return Keyring(site.root / "keys").signer(name)


def forge_a_root(repository: str) -> Callable[[Site, Thief], None]:
    def forge(site: Site, thief: Thief) -> None:
        files, folder = {
            "instructions": (thief.logon, "roots"),
            "packages": (thief.distribution, "metadata"),
        }[repository]
        newest = max(int(name.split("/")[1].split(".")[0]) for name in files if name.endswith(".root.json"))
        root = json.loads(files[f"{folder}/{newest}.root.json"])["signed"]
        root["version"] = newest + 1
        files[f"{folder}/{newest + 1}.root.json"] = metadata.sign(root, (offline(site, "root-1"),))

    return forge


def forge_targets(site: Site, thief: Thief) -> None:
    _, targets = thief.package_role("targets")
    targets["version"] += 1
    thief.sign_packages(targets=metadata.sign(targets, (offline(site, "targets"),)))


def forge_a_timestamp(site: Site, thief: Thief) -> None:
    thief.sign_packages(signer=online(site, "online"))


def forge_instructions(site: Site, thief: Thief) -> None:
    thief.instruct(online(site, "policy"), {"instructions": []})


def forge_a_lease(site: Site, thief: Thief) -> None:
    thief.lease(signer=online(site, "lease-site"))


def forge_a_package_list(site: Site, thief: Thief) -> None:
    name, _ = thief.package_role("main")
    again = package_repository.sign_team_again(
        "main", thief.distribution[name], [offline(site, "team-main")], time.time() + 86_400
    )
    thief.sign_packages(main=again)


# role, the key that is lost, its successor, whether both are the site's, what the thief does with it, what clients say
LOST = {
    "root": ("root", "root-1", "root-2", False, forge_a_root("instructions"), "trust.rogue_root"),
    "targets": ("targets", "targets", "targets-2", False, forge_targets, "trust.unsigned"),
    "online": ("online", "online", "online.2", True, forge_a_timestamp, "trust.unsigned"),
    "policy": ("policy", "policy", "policy.2", True, forge_instructions, "trust.unsigned"),
    "lease": ("lease", "lease-site", "lease-site.2", True, forge_a_lease, "trust.unsigned"),
    "team": ("team-main", "team-main", "team-main-2", False, forge_a_package_list, "trust.unsigned"),
}


@pytest.mark.parametrize("lost", LOST)
def test_what_a_revoked_key_signs_is_refused(site: Site, client: Client, lost: str) -> None:
    role, old, new, is_online, forge, code = LOST[lost]
    if lost == "online":
        spoil_the_versions(site, client)
    before = site.ran()
    rotate(site, role, old, new, online=is_online)
    site.order("tool", "--program", "again", group=client.home.name)
    assert client.once()["problem"] is None, "the client follows the new keys"
    now_done = ["tool 1.0 again"] * (2 if lost == "online" else 1)
    before = [*before, *now_done[1:]]
    assert site.ran() == [*before, "tool 1.0 again"]

    job = site.order("tool", "--program", "again", group=client.home.name)
    thief = Thief(site, client)
    forge(site, thief)
    logon = lost in ("root", "policy", "lease")
    thief.show(logon=logon, distribution=not logon)
    client.once(code=None)
    assert site.ran() == [*before, "tool 1.0 again"], "nothing ran"
    check_shown(client, job, code)
    if lost == "root":
        site.front.be_honest()
        thief = Thief(site, client)
        forge_a_root("packages")(site, thief)
        thief.show(logon=False)
        client.once(code=None)
        assert site.ran() == [*before, "tool 1.0 again"]
        check_shown(client, job, code)

    site.front.be_honest()
    overtake(site, client)
    client.once()
    assert site.ran() == [*before, "tool 1.0 again", "tool 1.0 again"]
    assert site.job_states(job) == {client.client_id: "succeeded"}


def spoil_the_versions(site: Site, client: Client) -> None:
    """The thief pushes the online roles' versions far up while the key still counts: nothing honest is new enough then."""
    site.order("tool", "--program", "again", group=client.home.name)
    thief = Thief(site, client)
    _, snapshot = thief.package_role("snapshot")
    _, timestamp = thief.package_role("timestamp")
    snapshot["version"] = timestamp["version"] = 1_000_000
    thief.finish_packages(snapshot, timestamp, thief.key("online"))
    thief.show(logon=False)
    client.once()
    site.front.be_honest()
    before = site.ran()
    job = site.order("tool", "--program", "again", group=client.home.name)
    client.once(code=None)
    check_shown(client, job, "trust.rollback")
    assert site.ran() == before, "it waits for the keepers"


def check_shown(client: Client, job: str, code: str) -> None:
    """The code stands at the client and at the site: for everything that was offered, or for the one order."""
    whole = client.refusals()[:1] == [code]
    items = [each.get("code") for each in client.pcmsvc_json("list")["items"] if each["job"] == job]
    assert whole or items == [code], (client.refusals(), items)
    assert code in client.shown_refusals()


def overtake(site: Site, client: Client) -> None:
    """Publish until the site's versions are beyond those that a thief of the online key has used up."""
    _, mine = Thief(site, client).package_role("timestamp")
    team = "team-main-2" if (site.keys / "team-main-2.json").exists() else "team-main"
    keyring = site.folder / f"packager-{team}"
    if not keyring.exists():
        keyring.mkdir()
        for suffix in ("json", "pem"):
            shutil.copy(site.keys / f"{team}.{suffix}", keyring)
    root = site.keys / "pinned" / "packages.root.json"
    for number in range(2):
        directory = site.write_package(f"n{mine['version']}-{number}")
        site.publish(directory, "--team", "main", "--keys", keyring, "--root", root)


def test_a_revoked_approver_approves_nothing(site: Site, client: Client) -> None:
    site.order("tool", group=client.home.name)
    client.once()
    staged = site.folder / "ceremony-approver"
    site.pcm("key", "init", "approver-eve")
    site.pcm("key", "rotate", "approver", "ada", site.keys / "approver-eve.json", "--in", staged)
    site.pcm("key", "sign", "--in", staged, "--yes")
    site.pcm("key", "publish", "--in", staged, "--yes")
    job = site.json("job", "create", "tool", "--program", "uninstall", "--group", client.home.name)["id"]
    refused = site.pcm("job", "approve", job, "--approver", "ada", "--yes", code=None)
    assert refused.code in (1, 4), refused
    site.pcm("job", "approve", job, "--approver", "bob", "--yes")
    assert site.json("job", "show", job)["job"]["state"] == "waiting_for_approval"
    client.once()
    assert not [line for line in site.ran() if line.endswith("uninstall")]
