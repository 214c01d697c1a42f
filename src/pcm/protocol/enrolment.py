"""Enrolment: how a computer becomes a client, and the configuration that it keeps afterwards.

`ClientConfiguration` (the enrolment kit) comes from the administrator with the installer, together with both pinned roots,
never from a server. `EnrolmentRequest` is sent once, signed with the new key (proof of possession) as RFC 9421 asks.
"""

from typing import Annotated, Literal

import msgspec

from pcm.model.facts import Facts
from pcm.protocol import codec

KIT_KIND = "pcm.client-configuration"
REQUEST_KIND = "pcm.enrolment"
MAX_BYTES = 256 * 2**10
MAX_AUTHORITY = 64 * 2**10
_Location = Annotated[str, msgspec.Meta(min_length=1, max_length=400)]


class ClientConfiguration(codec.Document, frozen=True, kw_only=True, omit_defaults=True, tag=KIT_KIND):
    """What a client must know to find its site and to trust nobody but its keys.

    The roots are the text of TUF root metadata (JSON): pinned, replaced only along a chain of signatures.
    `ca_file`: PEM file on the client for https instead of the system's authorities. `authority`: the text of one, from the site,
    which enrolment puts beside the configuration and names as `ca_file`.
    """

    site: Annotated[str, msgspec.Meta(max_length=63)]
    logon: Annotated[tuple[_Location, ...], msgspec.Meta(min_length=1, max_length=32)]
    distribution: Annotated[tuple[_Location, ...], msgspec.Meta(min_length=1, max_length=32)]
    instructions_root: Annotated[str, msgspec.Meta(max_length=64 * 1024)]
    packages_root: Annotated[str, msgspec.Meta(max_length=64 * 1024)]
    transfer_account: Annotated[str, msgspec.Meta(max_length=64)] = "_pcm"
    proxy: _Location | None = None
    ca_file: _Location | None = None
    authority: Annotated[str, msgspec.Meta(max_length=MAX_AUTHORITY)] | None = None


class EnrolmentRequest(codec.Document, frozen=True, kw_only=True, omit_defaults=True, tag=REQUEST_KIND):
    """A computer's wish to become a client. Without a token it waits for an administrator's approval.

    `public_key`: PEM SubjectPublicKeyInfo, P-256.
    """

    site: Annotated[str, msgspec.Meta(max_length=63)]
    public_key: Annotated[str, msgspec.Meta(max_length=1000)]
    facts: Facts
    token: Annotated[str, msgspec.Meta(max_length=200)] | None = None


class EnrolmentAnswer(msgspec.Struct, frozen=True):
    """The site's answer. `fingerprint` is what an approver compares with the client's screen."""

    client_id: str
    state: Literal["enrolled", "pending"]
    fingerprint: str


def read_configuration(data: bytes) -> ClientConfiguration:
    """Parse an enrolment kit or a client's configuration file. Raises RequestError `protocol.*`."""
    return codec.decode(ClientConfiguration, data, max_bytes=MAX_BYTES)


def read_enrolment(data: bytes) -> EnrolmentRequest:
    """Parse an enrolment request. Raises RequestError `protocol.*`."""
    return codec.decode(EnrolmentRequest, data, max_bytes=MAX_BYTES)
