"""Addresses of servers: what is accepted, what it becomes, and that a path never leaves its server."""

import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm.model.errors import RequestError
from pcm.transport.locations import parse_location


@pytest.mark.parametrize(
    ("text", "url", "kind"),
    [
        ("https://pcm.example.org/logon/", "https://pcm.example.org/logon", "https"),
        ("https://PCM.example.org:443", "https://pcm.example.org", "https"),
        ("http://127.0.0.1:08080/x", "http://127.0.0.1:8080/x", "http"),
        ("http://[::1]:8080/x", "http://[::1]:8080/x", "http"),
        (
            "http://a-server-with-a-name-of-more-than-eleven-characters/",
            "http://a-server-with-a-name-of-more-than-eleven-characters",
            "http",
        ),
        ("file:///srv/pcm%20share/", "file:///srv/pcm%20share", "directory"),
        ("/srv/pcm share", "file:///srv/pcm%20share", "directory"),
        ("/srv//pcm/./x", "file:///srv/pcm/x", "directory"),
        ("smb://FileServer.example.org:445/Share/a%20folder/", "smb://fileserver.example.org/Share/a%20folder", "smb"),
        ("smb://nas:4450/share", "smb://nas:4450/share", "smb"),
    ],
)
def test_addresses_are_brought_into_one_form(text: str, url: str, kind: str) -> None:
    assert parse_location(text) == (url, kind)
    assert parse_location(url) == (url, kind)


@pytest.mark.parametrize(
    "text",
    [
        "", "host", "ftp://host/", "HTTP//host", "https://", "https:///path", "https://user:secret@host/", "https://host:0/",
        "https://host:70000/", "https://host:x/", "https://host/?q", "https://host/#f", "https://host/a b", "https://host/../x",
        "https://host//x", "https://host/%zz", "https://host/a\\b", "https://höst/", "https://host\r\n/", "file://host/share",
        "smb://host", "smb://host/", "smb:///share", "smb://user:secret@host/share", "smb://host/share/../other", r"\\host\share",
        "file:relative", "file:///a/../b", "/srv/../etc", "/srv/\0", "-", "https://-host/",
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_location(text)
    assert caught.value.code == "request.location"
    assert "Write https://" in caught.value.message


def test_a_directory_knows_its_path() -> None:
    assert parse_location("/srv/ä share").directory == "/srv/ä share"
    assert parse_location("https://host").directory is None


def test_paths_are_quoted_and_joined() -> None:
    assert (
        parse_location("https://host/d").join("targets/a b/ü?#%.json")
        == "https://host/d/targets/a%20b/%C3%BC%3F%23%25.json"
    )


@pytest.mark.parametrize("scheme", ["http", "https", "smb"])
@pytest.mark.parametrize("length", [11, 12, 15, 16, 63, 64, 253])
def test_q126643_a_servers_name_is_whole_however_long_it_is(scheme: str, length: int) -> None:
    name = ("distribution-server-" * 13)[: length - 1] + "z"
    location = parse_location(f"{scheme}://{name}/share")
    assert location == (f"{scheme}://{name}/share", scheme)
    assert location.join("metadata/timestamp.json") == f"{scheme}://{name}/share/metadata/timestamp.json"


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/./b", "a/\0", "a\n"])
def test_a_path_never_leaves_its_server(path: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_location("/srv").join(path)
    assert caught.value.code == "request.location"


@given(st.text(max_size=60))
def test_parsing_never_fails_otherwise(text: str) -> None:
    for candidate in (text, "https://" + text, "/" + text, "file:///" + text):
        try:
            location = parse_location(candidate)
        except RequestError:
            continue
        assert location.url.isascii()
        assert parse_location(location.url) == location


@given(
    st.lists(
        st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=9), min_size=1, max_size=4
    ).map("/".join)
)
def test_what_is_joined_comes_back_whole(path: str) -> None:
    if any(part in ("", ".", "..") for part in path.split("/")):
        return
    url = parse_location("http://host/base").join(path)
    assert urllib.parse.unquote(urllib.parse.urlsplit(url).path) == "/base/" + path
