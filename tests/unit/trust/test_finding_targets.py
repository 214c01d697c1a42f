"""Where a target is looked up by us, tuf's own walk over the delegations ends in the same place."""

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, TargetFile, Targets

from pcm.trust import refresh
from tests.unit.trust.simulated import SITE, Server, SimulatedSite, utc_now

PATHS = (
    "packages/apps/viewer/1.0/manifest.json",
    "packages/apps/viewer/2.0/manifest.json",
    "packages/games/chess/1.0/manifest.json",
    "packages/apps/manifest.json",
    "packages/[apps]/viewer/1.0/manifest.json",
    "policy/site.json",
    "top.json",
    "",
)
PATTERNS = ("packages/apps/*/*/*", "packages/games/*/*/*", "packages/*/viewer/*/*", "packages/*/*", "policy/*", "*")

listed = st.dictionaries(st.sampled_from(PATHS[:-1]), st.binary(max_size=8), max_size=4)
teams = st.lists(
    st.tuples(st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3), st.booleans(), listed), max_size=3
)
_site = SimulatedSite()


def targets_of(contents: dict[str, bytes]) -> dict[str, TargetFile]:
    return {path: TargetFile.from_data(path, data, ["sha256"]) for path, data in contents.items()}


def publish(top: dict[str, bytes], drawn: list[tuple[list[str], bool, dict[str, bytes]]]) -> Server:
    """A repository whose packagers may be trusted with overlapping paths, and list any path that they like."""
    version = 1 + max(_site.versions.values(), default=1) + len(_site.distribution)
    keys: dict[str, Key] = {}
    roles: dict[str, DelegatedRole] = {}
    files: dict[str, bytes] = {}
    signer = _site.teams["apps"]
    for number, (patterns, terminating, contents) in enumerate(drawn):
        name = f"team{number}"
        roles[name] = DelegatedRole(name, [signer.public_key.keyid], 1, terminating, paths=patterns)
        keys[signer.public_key.keyid] = signer.public_key
        files[name] = _signed(Targets(version, None, None, targets_of(contents)), signer)
    delegations = Delegations(keys, roles) if roles else None
    files["targets"] = _signed(Targets(version, None, None, targets_of(top), delegations), _site.targets_key)
    _site.publish(files)
    return Server(_site.distribution)


def _signed(signed: Targets, signer: Any) -> bytes:
    signed.expires = utc_now().replace(microsecond=0, year=utc_now().year + 1)
    document = Metadata(signed)
    document.sign(signer)
    return document.to_bytes()


@settings(max_examples=60, deadline=None)
@given(listed, teams, st.permutations(PATHS))
def test_what_is_found_is_what_tufs_walk_finds(
    top: dict[str, bytes], drawn: list[tuple[list[str], bool, dict[str, bytes]]], asked: list[str]
) -> None:
    server = publish(top, drawn)
    repository = refresh.package_repository(SITE, _site.package_roots[0])
    with tempfile.TemporaryDirectory() as folder:
        ours = refresh.refresh(repository, None, Path(folder) / "ours", server)
        walked = refresh.refresh(repository, None, Path(folder) / "walked", server)
        for path in asked:
            expected = walked._updater.get_targetinfo(path)
            assert ours.find(path) == (None if expected is None else (expected.length, expected.hashes))
