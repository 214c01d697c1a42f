"""Our writer writes exactly what securesystemslib and tuf verify, for any value."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.formats import encode_canonical
from tuf.api.metadata import Metadata, MetaFile, Snapshot, TargetFile, Targets, Timestamp

from pcm.model.errors import RequestError
from pcm.trust import canonical, ceremony, instruction_repository, keys, metadata, package_repository

TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
    max_leaves=25,
)
SIGNER = keys.generate()
NOW_MS = 1_800_000_000_123


@given(VALUES)
def test_the_same_bytes_as_securesystemslib(value: Any) -> None:
    expected = encode_canonical(value)
    assert expected is not None
    assert canonical.encode(value) == expected.encode()


@given(st.dictionaries(TEXT, VALUES, max_size=5))
def test_the_file_is_json_that_reads_back_as_the_same_value(value: dict[str, Any]) -> None:
    laid_out = json.loads(canonical.lay_out(value, canonical.encode(value), {"ab": "cd"}))
    assert laid_out == {"signatures": [{"keyid": "ab", "sig": "cd"}], "signed": value}


@pytest.mark.parametrize("value", ['"\\', "\n\t\x00\x1f\x7f", "é€𝄞\u2028", "", "\\u0041", 'a"b\\c"d'])
def test_awkward_texts(value: str) -> None:
    expected = encode_canonical({value: [value]})
    assert expected is not None
    data = canonical.encode({value: [value]})
    assert data == expected.encode()
    assert json.loads(canonical.lay_out({value: [value]}, data, {}))["signed"] == {value: [value]}


@pytest.mark.parametrize("value", [1.5, float("nan"), b"bytes", {1: "x"}, {"a": {2: 3}}, object(), {"a"}, "\ud800"])
def test_what_canonical_json_does_not_have_is_refused(value: Any) -> None:
    with pytest.raises(RequestError) as caught:
        canonical.encode([value])
    assert caught.value.code == "request.canonical"


PATHS = st.from_regex(r"packages/apps/[a-z]{1,8}/[0-9]{1,3}/manifest\.json", fullmatch=True)


@given(st.dictionaries(PATHS, st.binary(max_size=20), max_size=5), st.integers(1, 2**60))
def test_team_targets_are_what_tuf_would_have_signed(contents: dict[str, bytes], version: int) -> None:
    described = {path: metadata.target(data) for path, data in contents.items()}
    written = package_repository.team_targets("apps", described, version, [SIGNER], 1_800_000_000)
    theirs = Metadata(
        Targets(
            version,
            "1.0.31",
            ceremony.moment(1_800_000_000),
            {path: TargetFile.from_data(path, data, ["sha256"]) for path, data in contents.items()},
        )
    )
    theirs.sign(SIGNER)
    ours: Metadata[Targets] = Metadata.from_bytes(written)
    assert ours == theirs
    assert ours.signed_bytes == theirs.signed_bytes


@given(st.binary(max_size=50))
def test_leases_are_what_tuf_would_have_signed(body: bytes) -> None:
    signed = instruction_repository.sign_instructions("c" * 32, body, SIGNER, NOW_MS)
    lease = instruction_repository.sign_lease(signed.targets, SIGNER, NOW_MS)
    expires = ceremony.moment(NOW_MS / 1000 + 3 * 86_400)
    snapshot = Metadata(
        Snapshot(NOW_MS, "1.0.31", expires, {"targets.json": MetaFile.from_data(NOW_MS, signed.targets, ["sha256"])})
    )
    snapshot.sign(SIGNER)
    timestamp = Metadata(Timestamp(NOW_MS, "1.0.31", expires, MetaFile.from_data(NOW_MS, lease.snapshot, ["sha256"])))
    timestamp.sign(SIGNER)
    assert Metadata.from_bytes(lease.snapshot) == snapshot
    assert Metadata.from_bytes(lease.timestamp) == timestamp
