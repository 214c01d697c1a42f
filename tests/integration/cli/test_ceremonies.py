"""Keys of every role are added, rotated and revoked on a real site, by several keepers, each with a keyring of their own."""

import json
import shutil
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from pcm.protocol import codec
from pcm.protocol.admin import MetadataUpload
from tests.integration.cli.conftest import Pcm, ServedSite, end, free_port, serve
from tests.integration.cli.test_publishing import publish, write_package


@pytest.fixture
def keepers(served: ServedSite, tmp_path: Path) -> dict[str, Path]:
    """Each root key in a keyring of its own; `targets`: the rest."""
    made = {}
    for name in ("root-1", "root-2", "root-3", "targets"):
        made[name] = tmp_path / name
        made[name].mkdir()
        for suffix in (".json", ".pem"):
            shutil.copy(served.keys / f"{name}{suffix}", made[name])
    return made


def sign(pcm: Pcm, served: ServedSite, folder: Path, keys: Path) -> tuple[int, str, str]:
    return pcm("key", "sign", "--in", folder, "--keys", keys, "--passphrase-file", served.passphrase_file, "--yes")


def new_key(pcm: Pcm, served: ServedSite, keys: Path, name: str) -> Path:
    assert pcm("key", "init", name, "--keys", keys, "--passphrase-file", served.passphrase_file).code == 0
    return keys / f"{name}.json"


def roles(pcm: Pcm, repository: str = "packages") -> dict[str, dict[str, object]]:
    shown = json.loads(pcm("key", "status", "--json").out)
    return {role["role"]: role for role in shown[repository]}


def key_names(pcm: Pcm, role: str, repository: str = "packages") -> list[str]:
    keys = roles(pcm, repository)[role]["keys"]
    assert isinstance(keys, list)
    return [key["name"] for key in keys]


def test_a_root_key_is_rotated_by_two_of_three(
    pcm: Pcm, served: ServedSite, keepers: dict[str, Path], tmp_path: Path
) -> None:
    folder, fresh = tmp_path / "ceremony", tmp_path / "fresh"
    public = new_key(pcm, served, fresh, "root-4")
    staged = pcm("key", "rotate", "root", "root-3", public, "--in", folder)
    assert staged.code == 0
    assert f"pcm key sign --in {folder}" in staged.out
    assert key_names(pcm, "root") == ["root-1", "root-2", "root-3"], "nothing has happened yet"

    assert pcm("key", "publish", "--in", folder, "--yes").code == 1
    code, out, err = sign(pcm, served, folder, keepers["root-1"])
    assert code == 0
    assert "root-1 signed instructions.root.json" in out
    assert "root-1 signed packages.root.json" in out
    assert "1 of 2 signatures (root-1)" in err + pcm("key", "status", "--in", folder).out
    assert "request.threshold" in pcm("key", "publish", "--in", folder, "--yes").err
    code, out, _ = sign(pcm, served, folder, keepers["root-2"])
    assert f"pcm key publish --in {folder}" in out
    asked = pcm("key", "publish", "--in", folder)
    assert asked.code == 1
    assert "not_confirmed" in asked.err
    assert pcm("key", "publish", "--in", folder, "--yes").code == 0
    for repository in ("packages", "instructions"):
        assert key_names(pcm, "root", repository) == ["root-1", "root-2", "root-4"]
        assert roles(pcm, repository)["root"]["version"] == 2
    assert pcm("key", "publish", "--in", folder, "--yes").code == 1, "once only"
    # whoever pinned the first root follows the chain
    assert publish(pcm, served, write_package(tmp_path / "p", name="after-root"))[0] == 0


def test_a_key_of_nobody_signs_nothing(pcm: Pcm, served: ServedSite, tmp_path: Path) -> None:
    folder, stranger = tmp_path / "ceremony", tmp_path / "stranger"
    public = new_key(pcm, served, stranger, "team-main")
    assert pcm("key", "add", "team-main", public, "--in", folder).code == 0
    code, _, err = sign(pcm, served, folder, tmp_path / "empty")
    assert code == 4
    assert "counts for what is staged" in err


def test_a_teams_key_is_rotated_and_its_list_signed_anew(
    pcm: Pcm, served: ServedSite, keepers: dict[str, Path], tmp_path: Path
) -> None:
    assert publish(pcm, served, write_package(tmp_path / "p", name="before-team"))[0] == 0
    folder, fresh = tmp_path / "ceremony", tmp_path / "fresh"
    public = new_key(pcm, served, fresh, "team-main")
    assert pcm("key", "rotate", "team-main", "team-main", public, "--in", folder).code == 0
    assert sign(pcm, served, folder, keepers["targets"])[0] == 0
    code, out, _ = sign(pcm, served, folder, fresh)
    assert code == 0
    assert "signed team-main.json" in out
    assert pcm("key", "publish", "--in", folder, "--yes").code == 0
    old = publish(pcm, served, write_package(tmp_path / "p2", name="old-key"))
    assert old[0] == 4
    new = pcm(
        "package", "publish", write_package(tmp_path / "p3", name="new-key"), "--keys", fresh, "--passphrase-file",
        served.passphrase_file, "--root", served.keys / "pinned" / "packages.root.json",
    )  # fmt: skip
    assert new.code == 0, new.err
    listed = {one["name"] for one in json.loads(pcm("package", "list", "--json").out)}
    assert {"before-team", "new-key"} <= listed
    # put the first key back for the tests that follow
    back = tmp_path / "back"
    assert pcm("key", "add", "team-main", served.keys / "team-main.json", "--in", back).code == 0
    assert sign(pcm, served, back, keepers["targets"])[0] == 0
    assert pcm("key", "publish", "--in", back, "--yes").code == 0


def team_keyring(pcm: Pcm, served: ServedSite, keepers: dict[str, Path], tmp_path: Path, team: str) -> Path:
    """A new team that has published something."""
    made, folder = tmp_path / f"of-{team}", tmp_path / f"begin-{team}"
    assert pcm("key", "add", f"team-{team}", new_key(pcm, served, made, f"team-{team}"), "--in", folder).code == 0
    assert sign(pcm, served, folder, keepers["targets"])[0] == 0
    assert pcm("key", "publish", "--in", folder, "--yes").code == 0
    assert publish_as(pcm, served, made, write_package(tmp_path / f"{team}-1", name=f"{team}-one")) == 0
    return made


def publish_as(pcm: Pcm, served: ServedSite, keys: Path, package: Path) -> int:
    root = served.keys / "pinned" / "packages.root.json"
    answer = pcm(
        "package", "publish", package, "--keys", keys, "--passphrase-file", served.passphrase_file, "--root", root
    )
    return answer.code


def test_a_teams_key_does_not_change_without_its_list(
    pcm: Pcm, served: ServedSite, keepers: dict[str, Path], tmp_path: Path
) -> None:
    old = team_keyring(pcm, served, keepers, tmp_path, "solo")
    folder, fresh = tmp_path / "ceremony", tmp_path / "fresh"
    public = new_key(pcm, served, fresh, "team-solo.2")
    assert pcm("key", "rotate", "team-solo", "team-solo", public, "--in", folder).code == 0
    code, out, _ = sign(pcm, served, folder, keepers["targets"])
    assert code == 0
    assert "Enough have signed" not in out
    assert "team solo: 0 of 1 signatures" in pcm("key", "status", "--in", folder).out
    refused = pcm("key", "publish", "--in", folder, "--yes")
    assert refused.code == 1
    assert "request.threshold" in refused.err
    assert "team-solo.2" in refused.err
    assert key_names(pcm, "solo") == ["team-solo"], "nothing has happened"

    # the team goes on publishing meanwhile: its newest list counts, and is signed in one more step
    code, out, _ = sign(pcm, served, folder, fresh)
    assert "Enough have signed" in out
    assert publish_as(pcm, served, old, write_package(tmp_path / "p2", name="solo-two")) == 0
    late = pcm("key", "publish", "--in", folder, "--yes")
    assert "conflict" in late.err
    assert f"pcm key sign --in {folder}" in late.err
    assert "Enough have signed" in sign(pcm, served, folder, fresh)[1]
    assert pcm("key", "publish", "--in", folder, "--yes").code == 0
    assert key_names(pcm, "solo") == ["team-solo.2"]
    assert publish_as(pcm, served, fresh, write_package(tmp_path / "p3", name="solo-three")) == 0
    assert publish_as(pcm, served, old, write_package(tmp_path / "p4", name="solo-four")) == 4
    listed = {one["name"] for one in json.loads(pcm("package", "list", "--json").out)}
    assert {"solo-one", "solo-two", "solo-three"} <= listed


def test_a_higher_threshold_takes_signatures_from_two_keyrings(
    pcm: Pcm, served: ServedSite, keepers: dict[str, Path], tmp_path: Path
) -> None:
    first = team_keyring(pcm, served, keepers, tmp_path, "duo")
    folder, second = tmp_path / "ceremony", tmp_path / "second"
    public = new_key(pcm, served, second, "team-duo.2")
    assert pcm("key", "add", "team-duo", public, "--threshold", "2", "--in", folder).code == 0
    assert sign(pcm, served, folder, keepers["targets"])[0] == 0
    assert "team-duo signed team-duo.json" in sign(pcm, served, folder, first)[1]
    assert "request.threshold" in pcm("key", "publish", "--in", folder, "--yes").err
    assert "Enough have signed" in sign(pcm, served, folder, second)[1]
    assert pcm("key", "publish", "--in", folder, "--yes").code == 0
    both = tmp_path / "both"
    both.mkdir()
    for file in (*first.glob("team-duo*"), *second.glob("team-duo*")):
        shutil.copy(file, both)
    assert publish_as(pcm, served, both, write_package(tmp_path / "p2", name="duo-two")) == 0


def test_the_site_takes_no_targets_that_would_orphan_a_list(
    pcm: Pcm, served: ServedSite, keepers: dict[str, Path], tmp_path: Path
) -> None:
    """An older `pcm`, or a hand-made upload: the site holds the same rule by itself."""
    team_keyring(pcm, served, keepers, tmp_path, "lone")
    folder = tmp_path / "ceremony"
    public = new_key(pcm, served, tmp_path / "fresh", "team-lone.2")
    assert pcm("key", "rotate", "team-lone", "team-lone", public, "--in", folder).code == 0
    assert sign(pcm, served, folder, keepers["targets"])[0] == 0
    token = (served.folder / "admin.token").read_text().strip()
    body = codec.encode(MetadataUpload("packages", "targets", (folder / "packages.targets.json").read_bytes()))
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    with pytest.raises(HTTPError) as refused:
        urlopen(Request(f"{served.url}/v1/metadata", data=body, headers=headers), timeout=10)
    with refused.value as answer:
        assert json.loads(answer.read())["code"] == "request.threshold"
    assert key_names(pcm, "lone") == ["team-lone"]


def test_root_and_targets_are_renewed_unchanged(
    pcm: Pcm, served: ServedSite, keepers: dict[str, Path], tmp_path: Path
) -> None:
    before = {repository: roles(pcm, repository) for repository in ("packages", "instructions")}
    time.sleep(1)  # dates of whole seconds
    folder = tmp_path / "ceremony"
    for role in ("root", "targets"):
        assert pcm("key", "renew", role, "--in", folder).code == 0
    assert pcm("key", "renew", "online", "--in", folder).code == 2
    for keeper in ("root-1", "root-2", "targets"):
        assert sign(pcm, served, folder, keepers[keeper])[0] == 0
    published = pcm("key", "publish", "--in", folder, "--yes")
    assert published.code == 0, published.err
    for repository, role in (("packages", "root"), ("instructions", "root"), ("packages", "targets")):
        was, now = before[repository][role], roles(pcm, repository)[role]
        assert str(now["expires"]) > str(was["expires"])
        assert now["keys"] == was["keys"]
        assert now["version"] == int(str(was["version"])) + 1
    assert publish(pcm, served, write_package(tmp_path / "p", name="after-renewal"))[0] == 0


def test_a_new_team_publishes_and_is_revoked(
    pcm: Pcm, served: ServedSite, keepers: dict[str, Path], tmp_path: Path
) -> None:
    folder, web = tmp_path / "ceremony", tmp_path / "web"
    public = new_key(pcm, served, web, "team-web")
    assert pcm("key", "add", "team-web", public, "--in", folder).code == 0
    assert sign(pcm, served, folder, keepers["targets"])[0] == 0
    assert pcm("key", "publish", "--in", folder, "--yes").code == 0
    root = served.keys / "pinned" / "packages.root.json"
    arguments = ("--keys", web, "--passphrase-file", served.passphrase_file, "--root", root)
    first = pcm("package", "publish", write_package(tmp_path / "p", name="web-tool"), *arguments)
    assert first.code == 0, first.err
    assert "by team web" in first.out

    gone = tmp_path / "gone"
    assert pcm("key", "revoke", "team-web", "--all", "--in", gone).code == 0
    assert sign(pcm, served, gone, keepers["targets"])[0] == 0
    assert pcm("key", "publish", "--in", gone, "--yes").code == 0
    refused = pcm("package", "publish", write_package(tmp_path / "p", name="web-tool", version="2"), *arguments)
    assert refused.code == 4


def test_approvers_and_the_brake_change_by_ceremony_only(
    pcm: Pcm, served: ServedSite, keepers: dict[str, Path], tmp_path: Path
) -> None:
    folder, fresh = tmp_path / "ceremony", tmp_path / "fresh"
    public = new_key(pcm, served, fresh, "approver-eve")
    assert pcm("key", "add", "approver", public, "--in", folder).code == 0
    assert pcm("key", "revoke", "approver", "ada", "--in", folder).code == 0
    assert pcm("key", "policy", "--spread", "4h", "--pilot-share", "0.05", "--min-age", "1h", "--in", folder).code == 0
    assert "spread_s" in pcm("key", "status", "--in", folder).out
    assert sign(pcm, served, folder, keepers["targets"])[0] == 0
    assert pcm("key", "publish", "--in", folder, "--yes").code == 0
    shown = pcm("key", "status").out
    assert "spread 14400 s, pilot share 5%, least age 3600 s, approvers: bob, eve" in shown


def test_online_keys_are_rotated_while_the_site_runs(
    pcm: Pcm, served: ServedSite, keepers: dict[str, Path], tmp_path: Path
) -> None:
    folder, online = tmp_path / "ceremony", served.folder / "keys"
    assert pcm("key", "init", "online.2", "policy.2", "lease-site.2", "--keys", online, "--no-passphrase").code == 0
    assert pcm("key", "rotate", "online", "online", online / "online.2.json", "--in", folder).code == 0
    assert pcm("key", "rotate", "policy", "policy", online / "policy.2.json", "--in", folder).code == 0
    assert pcm("key", "rotate", "lease", "lease-site", online / "lease-site.2.json", "--in", folder).code == 0
    for keeper in ("root-1", "root-2"):
        assert sign(pcm, served, folder, keepers[keeper])[0] == 0
    published = pcm("key", "publish", "--in", folder, "--yes")
    assert published.code == 0, published.err
    assert key_names(pcm, "timestamp") == ["online.2"]
    assert key_names(pcm, "targets", "instructions") == ["policy.2"]
    assert publish(pcm, served, write_package(tmp_path / "p", name="after-online"))[0] == 0


def test_the_targets_key_is_rotated_with_its_document(
    pcm: Pcm, served: ServedSite, keepers: dict[str, Path], tmp_path: Path
) -> None:
    folder, fresh = tmp_path / "ceremony", tmp_path / "fresh"
    public = new_key(pcm, served, fresh, "targets-2")
    assert pcm("key", "rotate", "targets", "targets", public, "--in", folder).code == 0
    for keyring in (keepers["root-1"], keepers["root-2"], fresh):
        assert sign(pcm, served, folder, keyring)[0] == 0
    assert pcm("key", "publish", "--in", folder, "--yes").code == 0
    assert key_names(pcm, "targets") == ["targets-2"]
    assert publish(pcm, served, write_package(tmp_path / "p", name="after-targets"))[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("add", "boss", "x.json"), 3),
        (("rotate", "root", "root-9", "x.json"), 3),
        (("revoke", "root", "root-9"), 3),
        (("revoke", "root"), 2),
        (("revoke", "root", "--all"), 2),
        (("revoke", "policy", "policy.2"), 1),
        (("revoke", "approver", "nobody"), 3),
        (("policy",), 2),
        (("sign", "--keys", "nowhere"), 3),
        (("publish",), 3),
        (("status",), 3),
    ],
)
def test_ceremonies_refuse_what_makes_no_sense(pcm: Pcm, tmp_path: Path, arguments: tuple[str, ...], code: int) -> None:
    answer = pcm("key", *arguments, "--in", tmp_path / "ceremony")
    assert answer.code == code, answer.err


def test_an_existing_key_is_never_overwritten(pcm: Pcm, served: ServedSite) -> None:
    before = (served.keys / "root-1.pem").read_bytes()
    answer = pcm("key", "init", "root-1", "--keys", served.keys, "--passphrase-file", served.passphrase_file)
    assert answer.code == 1
    assert "conflict" in answer.err
    assert (served.keys / "root-1.pem").read_bytes() == before


def test_a_short_passphrase_makes_no_key(pcm: Pcm, tmp_path: Path) -> None:
    file = tmp_path / "short"
    file.write_text("1234567\n")
    answer = pcm("key", "init", "root-1", "--keys", tmp_path / "keys", "--passphrase-file", file)
    assert answer.code == 1
    assert "1234567" not in answer.err
    assert not (tmp_path / "keys").exists()


def test_a_site_is_made_with_one_key_and_served_elsewhere(pcm: Pcm, served: ServedSite, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    folder = tmp_path / "small"
    arguments = ("site", "init", folder, "--url", url, "--single-key", "--passphrase-file", served.passphrase_file)
    made = pcm(*arguments)
    assert made.code == 0, made.err
    assert (tmp_path / "small-keys" / "pinned" / "packages.root.json").is_file()
    again = pcm(*arguments)
    assert again.code == 1
    assert "conflict" in again.err
    process = serve(folder, url)
    try:
        assert "1 of 1" in pcm("key", "status", "--site", folder).out
        assert json.loads(pcm("status", "--site", folder, "--json").out)["name"] == "small"
        taken = pcm("site", "serve", folder)
        assert taken.code == 1
        assert "store.in_use" in taken.err
    finally:
        end(process)
    stopped = pcm("status", "--site", folder)
    assert stopped.code == 5
    assert "transfer.unreachable" in stopped.err
