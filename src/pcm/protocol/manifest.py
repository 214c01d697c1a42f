"""`manifest.json`: one package, as its packager signed it: beside the policy, the only target of the package repository.

Written in step 2 on the packager's machine, read in step 6 on the client after its length and hash agreed with both
repositories. It alone says what may run.
"""

from datetime import datetime

import msgspec

from pcm.model.errors import RequestError
from pcm.model.package import Package, check_package
from pcm.model.schedule import check_moment
from pcm.protocol import codec

KIND = "pcm.manifest"
MAX_BYTES = 64 * 2**20


class Manifest(Package, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag=KIND):
    """A package with the header of a document and the time of signing (aware, UTC)."""

    signed_at: datetime
    spec: str = msgspec.field(default_factory=lambda: codec.SPEC)

    def __post_init__(self) -> None:
        check_moment(self.signed_at, "signed_at")


def read_manifest(data: bytes) -> Manifest:
    """Parse a manifest and check everything in it that shape alone does not show.

    Raises:
        RequestError: `protocol.*`, or the code of the rule it breaks (`request.path`, ...).
    """
    manifest = codec.decode(Manifest, data, max_bytes=MAX_BYTES)
    try:
        check_package(manifest)
    except ValueError as error:  # a rule of a nested value
        raise RequestError(f"A manifest is malformed: {error}.", code="protocol.malformed") from None
    return manifest


def write_manifest(manifest: Manifest) -> bytes:
    """Bytes of a manifest; the same value always gives the same bytes."""
    check_package(manifest)
    return codec.encode(manifest)


def manifest_target(team: str, package: str, version: str) -> str:
    """Target path of a manifest in the package repository."""
    return f"packages/{team}/{package}/{version}/manifest.json"
