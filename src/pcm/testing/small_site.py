"""A real site in a temporary folder, for tests and the demo: keys, roots, database, folders, signed packages.

Serves steps 1–5 without the administrator program. Nothing in it is fake: it does what `pcm site init`, `pcm
package publish` and `pcmsvc enroll` do, by the same functions. Its keys have no passphrase, so it must never be
used for anything but trying.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.signer import Signer

from pcm.content.objects import pack
from pcm.model.facts import Facts
from pcm.model.package import Package, PackageFile
from pcm.model.program import Program
from pcm.protocol.admin import TargetFile
from pcm.protocol.admin_packages import Publication, PublicationAnswer
from pcm.protocol.enrolment import EnrolmentAnswer, EnrolmentRequest
from pcm.protocol.manifest import Manifest, manifest_target, write_manifest
from pcm.protocol.policy import SitePolicy
from pcm.protocol.report import PAYLOAD_TYPE, Report, write_report
from pcm.site import delivery, initialise, packages, projection, repository
from pcm.site.authority import Clock, Site, now_utc, open_site
from pcm.site.configuration import Server, Settings, SiteConfiguration
from pcm.site.intake import Intake
from pcm.trust import envelopes, package_repository
from pcm.trust.keyring import Keyring

TEAM = "base"


@dataclass
class SmallSite:
    """A site folder and its offline keys. `open` gives the site itself."""

    folder: Path
    offline: Keyring
    configuration: SiteConfiguration
    clock: Clock = now_utc

    def open(self) -> Site:
        """Open it; the caller closes it."""
        return open_site(self.folder, clock=self.clock)

    @property
    def admin_token(self) -> str:
        """The first administrator's token."""
        return (self.folder / initialise.ADMIN_TOKEN).read_text().strip()

    def publish(self, site: Site, package: Package, contents: Mapping[str, bytes] | None = None) -> PublicationAnswer:
        """Sign and publish a package version into an open site, objects first."""
        for body in (contents or {}).values():
            put_object(site, body)
        publication = self.sign_publication(site, package)
        with site.database.write() as connection:
            answer = packages.publish(connection, publication, (site.home,), site.online, "test packager", site.clock())
        projection.publish_unwritten(site)
        delivery.deliver_all(site)
        return answer

    def sign_publication(self, site: Site, package: Package) -> Publication:
        """What a packager would send for one more version."""
        body = write_manifest(as_manifest(package, self.clock()))
        path = manifest_target(TEAM, package.package, package.version)
        with site.database.read() as connection:
            current = repository.newest(connection, repository.PACKAGES, TEAM)
        signed = package_repository.add_target(
            TEAM, None if current is None else current.body, path, body, self.team_signers(), self.expires_s()
        )
        return Publication(TEAM, signed, (TargetFile(path, body),))

    def sign_withdrawal(self, site: Site, package: str, version: str) -> Publication:
        """What a packager would send to withdraw one version."""
        with site.database.read() as connection:
            current = repository.require(connection, repository.PACKAGES, TEAM)
        path = manifest_target(TEAM, package, version)
        return Publication(
            TEAM,
            package_repository.remove_target(TEAM, current.body, path, self.team_signers(), self.expires_s()),
        )

    def team_signers(self) -> list[Signer]:
        """The packaging team's key."""
        return [self.offline.signer(f"team-{TEAM}")]

    def expires_s(self) -> float:
        """A year from now."""
        return self.clock().timestamp() + 365 * 86_400


@dataclass
class SmallClient:
    """A client's identity and report chain, without the service."""

    host_name: str = "pc-1"
    platform: str = "linux-x86_64"
    key: EllipticCurvePrivateKey = field(default_factory=lambda: generate_private_key(SECP256R1()))
    seq: int = 0
    previous: str | None = None

    @property
    def client_id(self) -> str:
        """Its id."""
        return envelopes.client_id_of(self.key.public_key())

    def public_pem(self) -> str:
        """Its public key."""
        return self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def facts(self) -> Facts:
        """What it says of itself."""
        return Facts(self.host_name, self.platform, "Debian", "12", "0.1.0")

    def wish(self, site: str, token: str | None = None) -> EnrolmentRequest:
        """Its enrolment request."""
        return EnrolmentRequest(site=site, public_key=self.public_pem(), facts=self.facts(), token=token)

    def report(self, site: str, **fields: object) -> bytes:
        """Its next report, signed; `fields` as in `protocol.report.Report`."""
        envelope, payload = self.sign_report(site, self.seq + 1, self.previous, **fields)
        self.seq += 1
        self.previous = hashlib.sha256(payload).hexdigest()
        return envelope

    def sign_report(self, site: str, seq: int, previous: str | None, **fields: object) -> tuple[bytes, bytes]:
        """A report under any number: its envelope and its payload."""
        report = Report(
            site=site, client_id=self.client_id, seq=seq, prev_sha256=previous, boot_id="boot", sent=datetime.now(UTC)
        )
        payload = write_report(msgspec.structs.replace(report, **fields))
        return envelopes.sign_as_client(PAYLOAD_TYPE, payload, self.key), payload


def make_small_site(
    folder: Path,
    *,
    url: str = "http://127.0.0.1:8440",
    database: str = "sqlite:///site.db",
    settings: Settings | None = None,
    static: bool = False,
    policy: SitePolicy | None = None,
    approvers: tuple[str, ...] = (),
    clock: Clock = now_utc,
) -> SmallSite:
    """Make a site below `folder`: `site` and `offline-keys`.

    Args:
        static: Add a second logon and a second distribution server that are plain folders (`share/logon`, `share/packages`).
    """
    share = folder / "share"
    logon = [Server("main", f"{url}/logon")]
    distribution = [Server("main", f"{url}/distribution")]
    if static:
        logon.append(Server("share", f"file://{share}/logon", f"{share}/logon"))
        distribution.append(Server("share", f"file://{share}/packages", f"{share}/packages"))
    configuration = SiteConfiguration(
        name="test-site",
        url=url,
        listen=url.removeprefix("http://"),
        logon=tuple(logon),
        distribution=tuple(distribution),
        database=database,
        settings=settings or Settings(poll_after_s=5),
    )
    offline = Keyring(folder / "offline-keys")
    beginning = initialise.Beginning(configuration, (TEAM,), approvers=approvers, keepers=1, threshold=1, policy=policy)
    initialise.initialise(folder / "site", beginning, offline, clock=clock)
    return SmallSite(folder / "site", offline, configuration, clock)


def make_package(
    name: str = "tool", version: str = "1.0", release: int = 1, contents: Mapping[str, bytes] | None = None
) -> Package:
    """A package with `install` and `uninstall`, for any Linux."""
    files = tuple(
        PackageFile(path, len(body), hashlib.sha256(body).hexdigest(), executable=True)
        for path, body in sorted((contents or {}).items())
    )
    return Package(
        package=name,
        version=version,
        release=release,
        platforms=("linux-any",),
        programs={
            "install": Program(argv=("/bin/true",), user_requestable=True),
            "uninstall": Program(argv=("/bin/true",)),
        },
        files=files,
    )


def as_manifest(package: Package, signed_at: datetime) -> Manifest:
    """A package as its packager signs it."""
    fields = {name: getattr(package, name) for name in package.__struct_fields__}
    return Manifest(signed_at=signed_at.replace(microsecond=0), **fields)


def put_object(site: Site, body: bytes) -> str:
    """Bring one file's contents to the site's home; its SHA-256."""
    sha256 = hashlib.sha256(body).hexdigest()
    site.home.objects.put(sha256, len(body), pack(io.BytesIO(body), len(body)))
    return sha256


def enrol(intake: Intake, client: SmallClient, site: str, token: str | None) -> EnrolmentAnswer:
    """Enrol a client through an `Intake`, without HTTP."""
    answer = intake.enrol(client.wish(site, token), client.client_id)
    return msgspec.json.decode(answer.body, type=EnrolmentAnswer)
