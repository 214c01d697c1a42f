"""A site that speaks TLS with a certificate of the house's own authority: `pcm` and clients reach it, and nobody trusts it unasked."""

import datetime as dt
import ipaddress
import json
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pcm.cli.main import run
from pcm.protocol.enrolment import read_configuration
from tests.integration.cli.conftest import PASSPHRASE, Answer, end, free_port

PCMSVC = [sys.executable, "-m", "pcm.service.main"]


@dataclass
class Secure:
    """A site's folder, not necessarily served."""

    folder: Path
    url: str


def write_certificate(folder: Path, prefix: str = "tls") -> None:
    """A certificate for 127.0.0.1 that signs itself, so that it is its own authority; and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pcm test")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / f"{prefix}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / f"{prefix}.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


@pytest.fixture
def secure(tmp_path: Path) -> Secure:
    passphrase, folder, url = tmp_path / "passphrase", tmp_path / "secure", f"https://127.0.0.1:{free_port()}"
    passphrase.write_text(PASSPHRASE + "\n")
    made = run(
        ["site", "init", str(folder), "--url", url, "--single-key", "--passphrase-file", str(passphrase), "--json"]
    )
    assert made == 0
    write_certificate(folder)
    with (folder / "site.yaml").open("a") as file:
        file.write("tls: {certificate: tls.pem, key: tls.key, authority: tls.pem}\n")
    return Secure(folder, url)


@pytest.fixture
def running(secure: Secure) -> Iterator[Secure]:
    process = subprocess.Popen(
        [sys.executable, "-m", "pcm.cli.main", "site", "serve", str(secure.folder)], stderr=subprocess.PIPE
    )
    context = ssl.create_default_context(cafile=str(secure.folder / "tls.pem"))
    until = time.monotonic() + 60
    while True:
        try:
            with urlopen(f"{secure.url}/readyz", timeout=5, context=context):
                break
        except OSError:
            if process.poll() is not None or time.monotonic() > until:
                process.kill()
                pytest.fail(process.communicate()[1].decode())
            time.sleep(0.05)
    yield secure
    end(process)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Iterator[object]:
    def pcm(*arguments: object) -> Answer:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return Answer(code, told.out, told.err)

    return pcm  # type: ignore[return-value]


def test_pcm_trusts_the_authority_that_it_is_given_and_no_other(
    running: Secure, call: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(call)
    at = ("--site", running.url, "--token-file", running.folder / "admin.token")
    authority = running.folder / "tls.pem"
    unknown = call("status", *at)
    assert unknown.code == 5
    assert "certificate" in unknown.err.lower()
    assert call("status", *at, "--ca-file", authority).code == 0
    write_certificate(tmp_path, "other")
    assert call("status", *at, "--ca-file", tmp_path / "other.pem").code == 5
    for wrong in (tmp_path / "absent.pem", tmp_path / "other.key"):
        refused = call("status", *at, "--ca-file", wrong)
        assert refused.code == 1
        assert "request.ca_file" in refused.err
        assert str(wrong) in refused.err

    assert call("status", "--site", running.folder).code == 0, "a site on this machine names its authority itself"
    assert call("context", "add", "house", *at, "--ca-file", authority).code == 0
    assert call("status").code == 0
    assert json.loads(call("context", "list", "--json").out)[0]["ca_file"] == str(authority)
    monkeypatch.setenv("PCM_CA_FILE", str(tmp_path / "other.pem"))
    assert call("status").code == 5, "the environment goes before the context"
    assert call("status", "--ca-file", authority).code == 0


@pytest.fixture
def home() -> Iterator[Path]:
    """A client's folder that others may pass, as they may pass /etc: the network's process has an account of its own."""
    with tempfile.TemporaryDirectory(prefix="pcm-authority-") as made:
        Path(made).chmod(0o755)
        yield Path(made) / "pc"


def test_a_client_gets_the_authority_with_its_kit(running: Secure, call: object, tmp_path: Path, home: Path) -> None:
    assert callable(call)
    kit = tmp_path / "kit.json"
    assert call("client", "kit", "--site", running.folder, "--out", kit).code == 0
    assert read_configuration(kit.read_bytes()).authority == (running.folder / "tls.pem").read_text()
    token = json.loads(call("client", "token", "--site", running.folder, "--json").out)["token"]
    (tmp_path / "token").write_text(token)
    enroll = [*PCMSVC, "--home", str(home), "enroll", "--kit", str(kit), "--token-file", str(tmp_path / "token")]
    done = subprocess.run(enroll, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert (home / "etc" / "authority.pem").read_text() == (running.folder / "tls.pem").read_text()
    checked = subprocess.run(
        [*PCMSVC, "--home", str(home), "once"], capture_output=True, text=True, timeout=60, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def swap_key(folder: Path) -> None:
    write_certificate(folder, "other")
    (folder / "other.key").replace(folder / "tls.key")


def absent(folder: Path) -> str:
    return (folder / "site.yaml").read_text().replace("authority: tls.pem", "authority: absent.pem")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: (folder / "tls.pem").unlink(), "tls.certificate"),
        (lambda folder: (folder / "tls.key").unlink(), "tls.key"),
        (lambda folder: (folder / "tls.key").write_text("nonsense"), "tls.key"),
        (swap_key, "tls.key"),
        (lambda folder: (folder / "site.yaml").write_text(absent(folder)), "tls.authority"),
    ],
)
def test_a_missing_or_damaged_file_is_named(secure: Secure, call: object, damage: object, named: str) -> None:
    assert callable(call)
    assert callable(damage)
    damage(secure.folder)
    told = call("site", "serve", secure.folder)
    assert told.code == 1
    assert "request.configuration" in told.err
    assert named in told.err
    assert "fault" not in told.err
    assert "Traceback" not in told.err
