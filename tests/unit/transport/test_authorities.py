"""Which authorities https is checked with, where the client's own OpenSSL looks for the system's in vain."""

import ssl
from pathlib import Path

from pcm.transport.wire import AUTHORITIES, find_authorities

NOWHERE = ssl.DefaultVerifyPaths._make([None, None, "SSL_CERT_FILE", "/x/cert.pem", "SSL_CERT_DIR", "/x/certs"])


def test_what_openssl_finds_by_itself_is_left_to_it(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.touch()
    for usual in (NOWHERE._replace(cafile="/x/cert.pem"), NOWHERE._replace(capath="/x/certs")):
        assert find_authorities(usual, (str(bundle),)) is None


def test_otherwise_the_first_file_that_is_there_counts(tmp_path: Path) -> None:
    known = tuple(str(tmp_path / name) for name in ("a", "b", "c"))
    assert find_authorities(NOWHERE, known) is None
    (tmp_path / "a").mkdir()
    (tmp_path / "b").touch()
    (tmp_path / "c").touch()
    assert find_authorities(NOWHERE, known) == known[1]


def test_only_folders_that_administrators_write_are_looked_at() -> None:
    assert all(path.startswith("/etc/") for path in AUTHORITIES)
