"""Whom an approval is for: a Merkle tree over client ids, so that one signature covers a named list of any length.

Serves steps 3 (approvers sign) and 6 (each client proves that it is in the list). Without it, an approval for three pilot
clients could be shown to the whole fleet by whoever holds the policy key. Pure functions.

Source: RFC 6962, section 2.1 (leaf and node hashes are kept apart by a first byte 0x00 and 0x01).
"""

import hashlib
from collections.abc import Sequence


def audience_root(client_ids: Sequence[str]) -> str:
    """Merkle root (hex) over the sorted, distinct client ids."""
    level = [_leaf(name) for name in sorted(set(client_ids))]
    if not level:
        return hashlib.sha256(b"").hexdigest()
    while len(level) > 1:
        level = _fold(level)
    return level[0].hex()


def audience_proofs(client_ids: Sequence[str]) -> dict[str, list[str]]:
    """For each client id its inclusion proof: side ('L' or 'R') and sibling hash, from leaf to root. O(n log n)."""
    names = sorted(set(client_ids))
    proofs: dict[str, list[str]] = {name: [] for name in names}
    level = [_leaf(name) for name in names]
    members = [[name] for name in names]
    while len(level) > 1:
        for index in range(0, len(level) - 1, 2):
            for name in members[index]:
                proofs[name].append("R" + level[index + 1].hex())
            for name in members[index + 1]:
                proofs[name].append("L" + level[index].hex())
        members = [
            members[index] + (members[index + 1] if index + 1 < len(members) else [])
            for index in range(0, len(members), 2)
        ]
        level = _fold(level)
    return proofs


def in_audience(client_id: str, proof: Sequence[str], root: str) -> bool:
    """Tell whether the proof leads from this client id to the root. A malformed proof is simply false."""
    current = _leaf(client_id)
    if len(proof) > 40:
        return False
    for step in proof:
        side, sibling = step[:1], step[1:]
        if side not in {"L", "R"} or len(sibling) != 64 or any(c not in "0123456789abcdef" for c in sibling):
            return False
        other = bytes.fromhex(sibling)
        current = _node(other, current) if side == "L" else _node(current, other)
    return current.hex() == root


def _leaf(name: str) -> bytes:
    return hashlib.sha256(b"\x00" + name.encode()).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _fold(level: list[bytes]) -> list[bytes]:
    folded = [_node(level[index], level[index + 1]) for index in range(0, len(level) - 1, 2)]
    return folded + ([level[-1]] if len(level) % 2 else [])
