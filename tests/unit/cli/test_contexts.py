"""Which site is meant, and which token: options, environment, contexts, folders; and what is refused about them."""

import json
from pathlib import Path

import pytest

from pcm.cli import contexts
from pcm.cli.settings import Settings, read_token
from pcm.model.errors import RequestError
from tests.unit.cli.conftest import Pcm


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("header.body.signature\n")
    path.chmod(0o600)
    return path


def test_contexts_are_added_listed_used_and_removed(pcm: Pcm, home: Path, token: Path) -> None:
    assert "There is none" in pcm("context", "list").out
    assert pcm("context", "add", "hq", "--site", "https://pcm.example.org/", "--token-file", token).code == 0
    assert pcm("context", "add", "lab", "--site", "http://127.0.0.1:8440", "--token-file", token).code == 0
    listed = json.loads(pcm("context", "list", "--json").out)
    assert [(one["name"], one["site"], one["current"]) for one in listed] == [
        ("hq", "https://pcm.example.org", False),
        ("lab", "http://127.0.0.1:8440", True),
    ]
    file = home / "config" / "pcm" / "contexts.yaml"
    assert file.stat().st_mode & 0o777 == 0o600
    assert "signature" not in file.read_text()
    assert pcm("context", "use", "hq").code == 0
    assert Settings().find_site().site == "https://pcm.example.org"
    assert Settings(context="lab").find_site().site == "http://127.0.0.1:8440"
    assert pcm("context", "remove", "hq", "--yes").code == 0
    assert contexts.load().current is None


def test_an_unknown_context_is_not_found(pcm: Pcm) -> None:
    for arguments in (("context", "use", "nowhere"), ("context", "remove", "nowhere"), ("status", "-c", "nowhere")):
        answer = pcm(*arguments)
        assert answer.code == 3
        assert "nowhere" in answer.err


def test_removing_without_somebody_to_ask_is_refused(pcm: Pcm, token: Path) -> None:
    pcm("context", "add", "hq", "--site", "https://pcm.example.org", "--token-file", token)
    answer = pcm("context", "remove", "hq")
    assert answer.code == 1
    assert "not_confirmed" in answer.err
    assert "hq" in contexts.load().known


@pytest.mark.parametrize(
    ("site", "code"),
    [
        ("http://pcm.example.org", 1),
        ("ftp://x", 1),
        ("https://", 1),
        ("https://user:secret@x", 1),
        ("https://x/?a=b", 1),
    ],
)
def test_addresses_that_would_show_the_token_are_refused(pcm: Pcm, token: Path, site: str, code: int) -> None:
    answer = pcm("context", "add", "hq", "--site", site, "--token-file", token)
    assert answer.code == code
    assert contexts.load().known == {}


def test_plain_http_needs_to_be_said(pcm: Pcm, token: Path) -> None:
    arguments = ("context", "add", "hq", "--site", "http://pcm.example.org", "--token-file", token)
    assert "request.insecure" in pcm(*arguments).err
    assert pcm(*arguments, "--insecure-http").code == 0


def test_a_sites_folder_names_address_and_token(pcm: Pcm, tmp_path: Path, token: Path) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "site.yaml").write_text("name: lab\nurl: http://127.0.0.1:9\n")
    token.rename(folder / "admin.token")
    found = Settings(site=str(folder)).find_site()
    assert (found.site, found.token_file) == ("http://127.0.0.1:9", str(folder / "admin.token"))
    assert pcm("context", "add", "lab", "--site", folder).code == 0
    assert pcm("status", "--site", tmp_path / "elsewhere").code == 3
    (folder / "site.yaml").write_text("[]")
    assert pcm("status", "--site", folder).code == 1


def test_the_environment_names_a_site_too(home: Path, token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert home
    monkeypatch.setenv("PCM_SITE", "http://127.0.0.1:9")
    monkeypatch.setenv("PCM_TOKEN_FILE", str(token))
    assert Settings().find_site().token_file == str(token)


def test_a_site_without_a_known_token_is_not_allowed(pcm: Pcm) -> None:
    assert pcm("status", "--site", "http://127.0.0.1:9").code == 4


@pytest.mark.parametrize(
    "text", ["contexts: [", "contexts: 7", "- a", "contexts: {a: {site: x}}", "contexts: {a: b}", "\x00"]
)
def test_a_damaged_file_is_named(pcm: Pcm, home: Path, text: str) -> None:
    file = home / "config" / "pcm" / "contexts.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    file.chmod(0o600)
    answer = pcm("status")
    assert answer.code == 1
    assert str(file) in answer.err


def test_a_file_that_others_can_change_is_refused(pcm: Pcm, home: Path) -> None:
    file = home / "config" / "pcm" / "contexts.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("contexts: {}")
    file.chmod(0o666)
    assert "request.contexts" in pcm("status").err


@pytest.mark.parametrize(
    ("content", "mode", "code"),
    [
        ("", 0o600, "not_allowed"),
        ("two words", 0o600, "not_allowed"),
        ("x" * 5000, 0o600, "not_allowed"),
        ("good", 0o644, "request.key_exposed"),
    ],
)
def test_token_files_are_checked(tmp_path: Path, content: str, mode: int, code: str) -> None:
    path = tmp_path / "t"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(RequestError) as caught:
        read_token(path)
    assert caught.value.code == code
    assert content not in caught.value.message or not content


def test_a_missing_token_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no token file") as caught:
        read_token(tmp_path / "none")
    assert caught.value.code == "not_found"
