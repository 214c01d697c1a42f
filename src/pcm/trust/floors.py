"""Version floors: for each role of a repository the newest version that this client has accepted.

Serves step 6, checks 5 and 8 (design: 'What the client checks'). They outlive every cached file: the caller keeps
them in its database and stores the raised ones in the transaction that makes a refreshed copy current. Pure; the
caller reads the clock.

Logon servers sign their leases (timestamp and snapshot) each with a key of its own and renew them when they like, so
these two roles have a floor per key: `timestamp/<key id>`. A client may then go from one server to another whose lease
is hours older, while each server by itself can never go back; what the client is to do (targets) has one floor for all.

A floor never goes down, with one exception: when a new root (for a team: new top-level targets) takes a key from a
role, that role's floor is forgotten, because whoever had the key may have pushed the versions up out of reach (TUF
specification 1.0.31, 5.3.11).
"""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from pcm.model.errors import PcmError, Retry, TransferError
from pcm.trust.codes import refuse

TOLERANCE_MS = 120_000
AHEAD_MS = 300_000  # as much as servers tolerate in signed requests
_DATED = ("timestamp", "snapshot", "targets")
LAST_MOMENT_S = 253_402_300_799  # the end of the year 9999, where datetime ends


class Floor(msgspec.Struct, frozen=True):
    """The newest accepted version of one role, and the ids of the keys that could sign it then."""

    version: int
    keys: tuple[str, ...]


class Floors(msgspec.Struct, frozen=True):
    """The floors of one repository: role name → floor."""

    roles: dict[str, Floor] = msgspec.field(default_factory=dict)

    def version(self, role: str) -> int:
        """A role's floor; 0 if it has none."""
        floor = self.roles.get(role)
        return 0 if floor is None else floor.version

    def to_json(self) -> bytes:
        """As the caller keeps it."""
        return msgspec.json.encode(self, order="sorted")

    @classmethod
    def from_json(cls, data: bytes) -> "Floors":
        """Read back `to_json`.

        Raises:
            msgspec.DecodeError: the database is damaged.
        """
        return msgspec.json.decode(data, type=cls)


def forget_revoked(floors: Floors, offered: Floors) -> Floors:
    """Drop the floor of each role that has lost a key since the floor was set.

    No older root (or older top-level targets) can do this by having other keys: its own floor is never dropped so, and `check`
    refuses it.

    Args:
        floors: As stored.
        offered: What the verified metadata says now.

    Returns:
        The floors to check `offered` against.
    """
    now = {_plain(role): set(floor.keys) for role, floor in offered.roles.items()}
    return Floors({role: floor for role, floor in floors.roles.items() if not _lost_key(role, floor, now)})


def leased(role: str, key: str) -> str:
    """The name of a role's floor for one lease key."""
    return f"{role}/{key}"


def _plain(role: str) -> str:
    return role.partition("/")[0]


def _lost_key(role: str, floor: Floor, now: Mapping[str, set[str]]) -> bool:
    plain, _, lease = role.partition("/")
    if plain == "root" or plain not in now:
        return False
    return not ({lease} if lease else set(floor.keys)) <= now[plain]


def check(floors: Floors, offered: Floors, name: str) -> None:
    """Check 5: no role may be older than its floor.

    Args:
        floors: From `forget_revoked`.
        offered: Versions that were verified now.
        name: The repository, for messages.

    Raises:
        TrustError: `trust.rollback`.
    """
    for role, floor in floors.roles.items():
        now = offered.roles.get(role)
        if now is not None and now.version < floor.version:
            raise refuse(
                "trust.rollback",
                f"{name}: the server offers {role} {now.version}, older than {floor.version}, which was seen here already.",
            )


def check_dated(floors: Floors, offered: Floors, now_ms: int, name: str) -> None:
    """Check 5 for the instruction repository, whose versions are milliseconds.

    What a server lacks may simply not have reached it yet: if it is less than two minutes younger than what the server has, or
    was signed less than two minutes ago, the server is stale, not hostile. Either way its files are not taken.

    Args:
        now_ms: Unix time in milliseconds.

    Raises:
        TransferError: `transfer.stale_server`, to be asked elsewhere or later.
        TrustError: `trust.rollback`.
    """
    dated = [role for role in offered.roles if _plain(role) in _DATED]
    for role in sorted(dated, key=lambda role: _DATED.index(_plain(role))):
        behind = floors.version(role) - offered.version(role)
        if behind <= 0:
            continue
        if behind < TOLERANCE_MS or abs(now_ms - floors.version(role)) < TOLERANCE_MS:
            raise _stale(name, role, behind)
        break
    check(floors, offered, name)


def check_not_ahead(offered: Floors, now_ms: int, name: str) -> None:
    """No version of the instruction repository may lie in the future by more than clocks may differ.

    A floor in the future would refuse every honest file until then, and hold this computer's clock for wrong: one stolen lease
    key, on one server, would stop a client whatever the other servers say.

    Args:
        now_ms: Unix time in milliseconds.

    Raises:
        TrustError: `trust.clock`.
    """
    for role, floor in offered.roles.items():
        if _plain(role) in _DATED and floor.version > now_ms + AHEAD_MS:
            raise refuse(
                "trust.clock",
                f"{name}: {role} was signed {(floor.version - now_ms) / 1000:.0f} s in the future, by this computer's clock. "
                "Either that is behind, or a key of the site is in wrong hands.",
            )


def raise_floors(floors: Floors, offered: Floors) -> Floors:
    """The floors to store once `offered` is accepted: its versions and keys, and what it does not speak of as it was."""
    return Floors({**floors.roles, **offered.roles})


def dated_floor_s(floors: Floors) -> float:
    """The latest time (unix seconds) that an instruction repository's floors prove: its versions are times of signing.

    It falls when a revoked key's floor is forgotten, so a stolen lease key cannot set this client's idea of time for ever.
    """
    latest = max((floor.version for role, floor in floors.roles.items() if _plain(role) in _DATED), default=0)
    return min(latest / 1000, LAST_MOMENT_S)


def least_versions(minimum: Mapping[str, int], offered: Floors, name: str) -> None:
    """Check 8: the package repository is at least as new as the site knew it when it signed the instructions.

    Raises:
        TrustError: `trust.freeze`: a mirror that stands still.
    """
    for role, version in minimum.items():
        if offered.version(role) < version:
            raise refuse(
                "trust.freeze",
                f"{name}: the mirror offers {role} {offered.version(role)}; the site has published {version}. "
                "It is frozen or behind.",
            )


def _stale(name: str, role: str, behind_ms: int) -> PcmError:
    return TransferError(
        f"{name}: the server's {role} is {behind_ms / 1000:.0f} s older than what was seen here; it has not caught up yet.",
        code="transfer.stale_server",
        retry=Retry.ELSEWHERE,
    )


def now_in_ms(now: datetime) -> int:
    """An aware time as unix milliseconds."""
    return int(now.timestamp() * 1000)
