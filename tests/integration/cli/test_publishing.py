"""From a folder to a published package and back, on a real site: what is sent, what is refused, what is shown."""

import json
import shutil
from pathlib import Path

import pytest

from pcm.protocol.manifest import read_manifest
from pcm.trust.keyring import Keyring
from tests.integration.cli.conftest import Pcm, ServedSite

DESCRIPTION = """name: {name}
version: "{version}"
summary: Says hello
platforms: [linux-any]
parameters: {{MODE: {{enum: [a, b], default: a}}}}
programs:
  install:
    command: [./setup, '{{MODE}}']
    user_requestable: true
    detect: {{file: /nowhere/hello}}
  uninstall:
    command: [./setup, --remove]
"""


def write_package(folder: Path, name: str = "hello", version: str = "1.10", more: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.yaml").write_text(more + DESCRIPTION.format(name=name, version=version))
    (folder / "setup").write_text("#!/bin/sh\nexit 0\n")
    (folder / "setup").chmod(0o755)
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data" / "big.bin").write_bytes(b"0123456789" * 100_000)
    return folder


def publish(pcm: Pcm, served: ServedSite, folder: Path, *more: object) -> tuple[int, str, str]:
    return pcm("package", "publish", folder, "--keys", served.keys, "--passphrase-file", served.passphrase_file, *more)


def test_a_package_is_published_shown_and_withdrawn(pcm: Pcm, served: ServedSite, tmp_path: Path) -> None:
    folder = write_package(tmp_path / "p")
    code, out, _ = publish(pcm, served, folder)
    assert code == 0
    assert "Published hello 1.10, release 1, by team main: 2 files" in out
    listed = json.loads(pcm("package", "list", "--json").out)
    assert [(one["name"], one["newest"]) for one in listed] == [("hello", "1.10")]
    shown = pcm("package", "show", "hello", "1.10")
    assert "./setup {MODE}" in shown.out
    manifest = read_manifest(pcm("package", "show", "hello", "1.10", "--manifest").out.encode())
    assert manifest.programs["uninstall"].approvals == 2
    assert {file.path: file.executable for file in manifest.files} == {"setup": True, "data/big.bin": False}

    again = publish(pcm, served, folder)
    assert again[0] == 1
    assert "a version never changes" in again[2]

    write_package(folder, version="1.11")
    assert "release 2" in publish(pcm, served, folder)[1]
    arguments = (
        "package",
        "withdraw",
        "hello",
        "1.11",
        "--keys",
        served.keys,
        "--passphrase-file",
        served.passphrase_file,
    )
    assert pcm(*arguments).code == 1, "nobody was asked"
    withdrawn = pcm(*arguments, "--yes")
    assert withdrawn.code == 0
    assert "every client refuses it" in withdrawn.err
    assert pcm(*arguments, "--yes").code == 3
    write_package(folder, version="1.12")
    assert "release 3" in publish(pcm, served, folder)[1], "a withdrawn release number is not used again"


def test_a_dry_run_changes_nothing(pcm: Pcm, served: ServedSite, tmp_path: Path) -> None:
    code, out, _ = publish(pcm, served, write_package(tmp_path / "p", name="dry"), "--dry-run")
    assert code == 0
    assert "Nothing was changed" in out
    assert pcm("package", "show", "dry").code == 3


@pytest.mark.parametrize(("release", "code"), [("release: 1\n", 1), ("release: 9\n", 0), ("release: 9\n", 1), ("", 0)])
def test_releases_never_go_back(pcm: Pcm, served: ServedSite, tmp_path: Path, release: str, code: int) -> None:
    if not json.loads(pcm("package", "list", "--json").out or "[]") or pcm("package", "show", "counted").code == 3:
        assert publish(pcm, served, write_package(tmp_path / "first", name="counted"))[0] == 0
    count = len(json.loads(pcm("package", "show", "counted", "--json").out)["versions"])
    folder = write_package(tmp_path / "p", name="counted", version=f"2.{count}", more=release)
    answer = publish(pcm, served, folder)
    assert answer[0] == code
    assert ("conflict" in answer[2]) == bool(code)


def test_a_mistake_in_the_description_sends_nothing(pcm: Pcm, served: ServedSite, tmp_path: Path) -> None:
    folder = write_package(tmp_path / "p", name="broken")
    text = (folder / "package.yaml").read_text()
    (folder / "package.yaml").write_text(text.replace("command", "comand"))
    code, _, err = publish(pcm, served, folder)
    assert code == 1
    assert f"{folder}/package.yaml:8:5: programs.install: unknown key 'comand'" in err
    (folder / "package.yaml").write_text(text)
    (folder / "setup").unlink()
    code, _, err = publish(pcm, served, folder)
    assert code == 1
    assert "missing-file" in err
    assert pcm("package", "show", "broken").code == 3


def test_a_wrong_passphrase_publishes_nothing(pcm: Pcm, served: ServedSite, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("not it at all\n")
    folder = write_package(tmp_path / "p", name="locked")
    answer = pcm("package", "publish", folder, "--keys", served.keys, "--passphrase-file", wrong)
    assert answer.code == 1
    assert "passphrase of key team-main is wrong" in answer.err
    assert "not it at all" not in answer.err + answer.out
    assert pcm("package", "show", "locked").code == 3


def test_without_a_passphrase_nothing_hangs(pcm: Pcm, served: ServedSite, tmp_path: Path) -> None:
    answer = pcm("package", "publish", write_package(tmp_path / "p", name="locked"), "--keys", served.keys)
    assert answer.code == 1
    assert "--passphrase-file" in answer.err


def test_the_passphrase_may_come_from_the_environment(
    pcm: Pcm, served: ServedSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PCM_KEY_PASSPHRASE", served.passphrase_file.read_text().strip())
    assert pcm("package", "publish", write_package(tmp_path / "p", name="fromenv"), "--keys", served.keys).code == 0


def test_a_key_of_nobodys_team_publishes_nothing(pcm: Pcm, served: ServedSite, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    Keyring(keys).create("team-main")
    shutil.copytree(served.keys / "pinned", keys / "pinned")
    answer = pcm("package", "publish", write_package(tmp_path / "p", name="foreign"), "--keys", keys)
    assert answer.code == 4
    assert "takes 1 of its keys" in answer.err
    answer = pcm(
        "package", "publish", write_package(tmp_path / "p", name="foreign"), "--keys", keys, "--team", "nobody"
    )
    assert answer.code == 4
    assert pcm("package", "show", "foreign").code == 3


def test_another_sites_root_is_no_root_of_this_one(pcm: Pcm, served: ServedSite, tmp_path: Path) -> None:
    code, _, err = publish(
        pcm,
        served,
        write_package(tmp_path / "p", name="other"),
        "--root",
        served.keys / "pinned" / "instructions.root.json",
    )
    assert code == 1
    assert "trust." in err


def test_the_first_meeting_pins_the_root_and_says_so(pcm: Pcm, served: ServedSite, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    shutil.copytree(served.keys, keys, ignore=shutil.ignore_patterns("pinned"))
    arguments = ("--keys", keys, "--passphrase-file", served.passphrase_file)
    first = pcm("package", "publish", write_package(tmp_path / "p", name="met"), *arguments)
    assert first.code == 0
    assert "meets the site for the first time" in first.err
    second = pcm("package", "publish", write_package(tmp_path / "p", name="met", version="2"), *arguments)
    assert second.code == 0
    assert "first time" not in second.err


def test_a_site_that_goes_back_in_time_is_noticed(pcm: Pcm, served: ServedSite, tmp_path: Path) -> None:
    folder = write_package(tmp_path / "p", name="steady")
    assert publish(pcm, served, folder)[0] == 0
    memory = next((tmp_path / "state").rglob("memory.json"))
    kept = json.loads(memory.read_bytes())
    kept["floors"]["roles"]["main"]["version"] += 100
    memory.write_text(json.dumps(kept))
    write_package(folder, name="steady", version="2")
    code, _, err = publish(pcm, served, folder)
    assert code == 1
    assert "trust.rollback" in err
    memory.write_text("damaged")
    code, _, err = publish(pcm, served, folder)
    assert code == 1
    assert "store.damaged" in err


def test_changed_metadata_on_the_distribution_server_is_refused(pcm: Pcm, served: ServedSite, tmp_path: Path) -> None:
    timestamp = served.folder / "distribution" / "metadata" / "timestamp.json"
    before = timestamp.read_bytes()
    changed = json.loads(before)
    changed["signed"]["version"] += 1000
    try:
        timestamp.write_text(json.dumps(changed))
        code, _, err = publish(pcm, served, write_package(tmp_path / "p", name="tampered"))
    finally:
        timestamp.write_bytes(before)
    assert code == 1
    assert "trust.unsigned" in err
    assert pcm("package", "show", "tampered").code == 3


def test_a_teams_list_is_signed_again_without_a_publication(pcm: Pcm, served: ServedSite, tmp_path: Path) -> None:
    publish(pcm, served, write_package(tmp_path / "p", name="seldom"))
    arguments = ("package", "refresh", "--keys", served.keys, "--passphrase-file", served.passphrase_file)
    before = json.loads(pcm("package", "list", "--json").out)

    def version() -> int:
        roles = json.loads(pcm("key", "status", "--json").out)["packages"]
        return next(int(role["version"]) for role in roles if role["role"] == "main")

    old = version()
    answer = pcm(*arguments)
    assert answer.code == 0, answer.err
    assert version() == old + 1
    assert f"version {old + 1}" in answer.out
    assert json.loads(pcm("package", "list", "--json").out) == before
