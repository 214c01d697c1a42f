"""`policy/site.json`: rules that every client enforces by itself, signed offline in the package repository.

Read in step 6; feeds the brake and the approvals of step 7. No server can loosen it, because no server holds the key of
the package repository's top-level targets role.
"""

from typing import Annotated

import msgspec

from pcm.protocol import codec

KIND = "pcm.site-policy"
MAX_BYTES = 256 * 2**10
TARGET = "policy/site.json"
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Seconds = Annotated[int, msgspec.Meta(ge=0, le=90 * 86_400)]


class Approver(msgspec.Struct, frozen=True):
    """A person whose signature counts as an approval. `public_key`: ed25519, 64 hexadecimal digits."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    public_key: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]


class SitePolicy(codec.Document, frozen=True, kw_only=True, omit_defaults=True, tag=KIND):
    """The brake and the approvers of one site.

    `spread_s`: seconds over which mandatory work starts across the fleet. `pilot_share`: share of clients that start
    at once. `min_age_s`: age of a manifest before it runs outside the pilot share. `emergency_approvals`: how many
    approvers lift spread and age; 0: nobody can.
    """

    site: Annotated[str, msgspec.Meta(max_length=63)]
    spread_s: _Seconds = 0
    pilot_share: _Share = 0.0
    min_age_s: _Seconds = 0
    approvers: Annotated[tuple[Approver, ...], msgspec.Meta(max_length=256)] = ()
    emergency_approvals: Annotated[int, msgspec.Meta(ge=0, le=20)] = 0


def read_policy(data: bytes) -> SitePolicy:
    """Parse a site policy.

    Raises:
        RequestError: `protocol.*`.
    """
    return codec.decode(SitePolicy, data, max_bytes=MAX_BYTES)


def write_policy(policy: SitePolicy) -> bytes:
    """Bytes of a site policy; the same value always gives the same bytes."""
    return codec.encode(policy)
