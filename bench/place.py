"""A real site and real clients of it, in a temporary folder, for measurements. Made by the product's own functions.

`pcm site serve` runs as its own process; a client is enrolled by `pcmsvc enroll` and checks by the worker that the
supervisor starts. Nothing here is simulated.
"""

import os
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bench.measure import succeed
from bench.wire import Counted, counting, free_port
from pcm.model.package import Package
from pcm.protocol import codec
from pcm.protocol.admin import EnrolmentTokenRequest, TargetFile
from pcm.protocol.admin_packages import Publication
from pcm.protocol.manifest import manifest_target, write_manifest
from pcm.service.machine.resident import start_arguments
from pcm.service.places import Places, find_places
from pcm.site import configuration, enrolment, packages, projection, site_views
from pcm.site.authority import Site
from pcm.site.configuration import Settings, Tls
from pcm.testing.small_site import TEAM, SmallSite, as_manifest, make_small_site
from pcm.trust import metadata, package_repository

BIN = Path(sys.executable).parent
_TOOLS = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
_WHOLE, _FIRST = "pcm.service.worker", "pcm.service.quick_check"


@contextmanager
def temporary_folder(*, in_memory: bool = False) -> Iterator[Path]:
    """A folder that the account without rights may pass through, too; in memory, if this machine has such a file system."""
    memory = "/dev/shm" if in_memory and os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="pcm-bench-", dir=memory) as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def own_file_system() -> Iterator[Path | None]:
    """A folder on an ext4 file system of its own, on this disk; None without the rights or tools to make one.

    ext4 takes no inode that was freed within the last minutes and looks at each such one before it creates a file, so what a
    measurement deleted before makes creating files dearer by an order of magnitude, on all of the same file system.
    """
    with tempfile.TemporaryDirectory(prefix="pcm-bench-") as name:
        image, place = Path(name, "image"), Path(name, "mounted")
        place.mkdir()
        with image.open("wb") as file:
            file.truncate(2 * 2**30)
        made = os.geteuid() == 0 and all(
            subprocess.run(each, capture_output=True, check=False, env=_TOOLS).returncode == 0
            for each in (["mkfs.ext4", "-q", "-F", str(image)], ["mount", "-o", "loop", str(image), str(place)])
        )
        if not made:
            yield None
            return
        try:
            place.chmod(0o755)
            yield place
        finally:
            subprocess.run(["umount", str(place)], check=True, env=_TOOLS)


@dataclass
class ServedSite:
    """A site behind a counting wire. `folder` also holds its clients; `port` leads past the wire."""

    folder: Path
    small: SmallSite
    port: int
    wire: Counted
    process_id: int
    authority: Path | None

    @property
    def url(self) -> str:
        """Its address as clients know it."""
        return self.small.configuration.url


@dataclass
class EnrolledClient:
    """One enrolled client below a folder of its own."""

    home: Path

    @property
    def places(self) -> Places:
        """Where it keeps things."""
        return find_places(self.home)

    def pcmsvc(self, *arguments: str) -> list[str]:
        """The command line of one of its commands."""
        return [str(BIN / "pcmsvc"), "--home", str(self.home), *arguments]

    def worker(self, *, whole: bool = False) -> list[str]:
        """The command line with which the supervisor starts a check. `whole`: what that goes on with if there may be work."""
        return [*as_own(_WHOLE if whole else _FIRST), "check", "--home", str(self.home)]


def as_own(module: str) -> list[str]:
    """The command line with which the service starts a process of its own; `module` may be one of this bench."""
    return [sys.executable, *start_arguments(module)]


@contextmanager
def served_site(folder: Path, *, tls: bool = False) -> Iterator[ServedSite]:
    """Make a site, serve it with `pcm site serve`, and put a wire that counts before it."""
    public, port = free_port(), free_port()
    small = make_small_site(
        folder, url=f"{'https' if tls else 'http'}://127.0.0.1:{public}", settings=Settings(poll_after_s=86_400)
    )
    authority = _write_certificate(small) if tls else None
    with ExitStack() as stack:
        log = stack.enter_context((folder / "serve.log").open("wb"))
        process = subprocess.Popen(
            [BIN / "pcm", "site", "serve", small.folder, "--listen", f"127.0.0.1:{port}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        stack.callback(_end, process)
        _await_ready(f"{'https' if tls else 'http'}://127.0.0.1:{port}/readyz", authority, folder / "serve.log")
        wire = stack.enter_context(counting(public, port))
        yield ServedSite(folder, small, port, wire, process.pid, authority)


def enrol(served: ServedSite, name: str) -> EnrolledClient:
    """Enrol a new client over HTTP with a one-time token, and let it check until it is idle."""
    site = served.small.open()
    try:
        with site.database.write() as connection:
            token = enrolment.create_token(connection, EnrolmentTokenRequest(), "bench", site.clock()).token
        with site.database.read() as connection:
            kit = site_views.kit(connection, site)
    finally:
        site.close()
    if served.authority is not None:
        kit = msgspec.structs.replace(kit, ca_file=str(served.authority))
    path = served.folder / f"{name}.kit.json"
    path.write_bytes(codec.encode(kit))
    client = EnrolledClient(served.folder / name)
    succeed(client.pcmsvc("enroll", "--kit", str(path), "--token", token))
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        served.wire.reset()
        succeed(client.worker())
        if served.wire.requests == 1 or (served.authority is not None and served.wire.bytes < 8000):
            return client
        time.sleep(0.2)
    raise RuntimeError("the client did not become idle")


def publish_all(small: SmallSite, site: Site, wanted: Sequence[Package]) -> None:
    """Sign all packages as one publication of the team, and publish it."""
    files, targets = [], {}
    for package in wanted:
        body = write_manifest(as_manifest(package, small.clock()))
        path = manifest_target(TEAM, package.package, package.version)
        files.append(TargetFile(path, body))
        targets[path] = metadata.target(body)
    signed = package_repository.team_targets(TEAM, targets, 2, small.team_signers(), small.expires_s())
    with site.database.write() as connection:
        packages.publish(
            connection, Publication(TEAM, signed, tuple(files)), (site.home,), site.online, "bench", site.clock()
        )
    projection.publish_unwritten(site)


def _write_certificate(small: SmallSite) -> Path:
    """A certificate that vouches for itself, for 127.0.0.1; the site is told to use it."""
    key = generate_private_key(SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pcm-bench")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, SHA256())
    )
    public = small.folder.parent / "authority.pem"
    public.write_bytes(certificate.public_bytes(Encoding.PEM))
    (small.folder / "tls.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (small.folder / "tls.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    configuration.write(small.folder, msgspec.structs.replace(small.configuration, tls=Tls("tls.pem", "tls.key")))
    return public


def _await_ready(url: str, authority: Path | None, log: Path) -> None:
    context = None if authority is None else ssl.create_default_context(cafile=str(authority))
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with suppress(OSError, urllib.error.URLError), urllib.request.urlopen(url, timeout=1, context=context):
            return
        time.sleep(0.05)
    raise RuntimeError(f"the site did not become ready: {log.read_text()[-2000:]}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
