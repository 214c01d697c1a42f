"""Whatever bytes a server sends: our errors come out, nothing else, and nothing is kept."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pcm.model.errors import PcmError, RequestError, TransferError, TrustError
from pcm.trust import ceremony, delegations, envelopes, instruction_repository, metadata
from pcm.trust.codes import REFUSALS
from tests.unit.trust.simulated import ME, Server, SimulatedClient, SimulatedSite, a_manifest, instruction_for, resigned

SITE = SimulatedSite()
SITE.publish_manifest(a_manifest())
SITE.instruct(SITE.body(instructions=[instruction_for(a_manifest())]))
QUICK = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "signed",
                    "signatures",
                    "_type",
                    "version",
                    "meta",
                    "keys",
                    "roles",
                    "targets",
                    "expires",
                    "spec_version",
                    "keyid",
                    "sig",
                    "snapshot.json",
                    "targets.json",
                    "length",
                    "hashes",
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)


def plain_name(path: str) -> str:
    """A file's role: names with the time of signing would differ between test workers."""
    return path.rsplit("/", 1)[-1].split(".", 1)[-1] if not path.endswith("timestamp.json") else "timestamp.json"


LOGON = sorted((name for name in SITE.logon if not name.startswith("roots/1.")), key=plain_name)


def poll(tmp: Path, name: str, data: bytes) -> str:
    client = SimulatedClient(SITE, tmp)
    before = client.state()
    try:
        client.poll(Server({**SITE.logon, name: data}))
    except PcmError as error:
        assert isinstance(error, (TrustError, TransferError)), error
        assert isinstance(error, TransferError) or error.code in REFUSALS
        assert client.state() == before
        return error.code
    return "accepted"


@pytest.mark.parametrize("name", [*LOGON, "roots/2.root.json"], ids=[*map(plain_name, LOGON), "next root"])
@QUICK
@given(data=st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_in_place_of_any_file(name: str, data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert poll(tmp_path_factory.mktemp("f"), name, data).startswith("trust.")


@pytest.mark.parametrize("name", LOGON, ids=plain_name)
@QUICK
@given(seed=st.integers(0, 2**32))
def test_a_bit_flipped_anywhere(name: str, seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every region of every file: names of fields, numbers, hashes, signatures, braces."""
    chance = random.Random(seed)
    data = bytearray(SITE.logon[name])
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    code = poll(tmp_path_factory.mktemp("b"), name, bytes(data))
    # an upper-case digit in a hexadecimal signature is still the same signature
    same = bytes(data).lower() == SITE.logon[name].lower()
    assert code.startswith("trust.") or (code == "accepted" and same)


@pytest.mark.parametrize("name", LOGON, ids=plain_name)
def test_a_bit_flipped_in_every_sixteenth_byte(name: str, tmp_path: Path) -> None:
    for number, position in enumerate(range(0, len(SITE.logon[name]), 16)):
        data = bytearray(SITE.logon[name])
        data[position] ^= 1
        assert poll(tmp_path / str(number), name, bytes(data)).startswith("trust.")


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
@QUICK
@given(value=JSON, data=st.data())
def test_any_value_that_a_stolen_key_signs(
    role: str, value: Any, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Well signed nonsense in any field: accepted only where the field does not matter, and never another exception."""
    signer = SITE.policy_key if role == "targets" else SITE.leases["a"]
    version = SITE.versions[ME]
    name = f"clients/{ME}/timestamp.json" if role == "timestamp" else f"clients/{ME}/{version}.{role}.json"
    fields = ["version", "meta", "targets", "expires", "spec_version", "delegations", "more"]
    field = data.draw(st.sampled_from(fields))
    try:
        forged = resigned(SITE.logon[name], [signer], lambda signed: signed.update({field: value}))
    except RequestError:
        return  # canonical JSON has no floats
    files = {**SITE.logon, name: forged}
    if role == "targets":
        lease = instruction_repository.sign_lease(forged, SITE.leases["a"], version + 1, targets_version=version)
        files.update(lease.files(ME))
    elif role == "snapshot":
        timestamp = metadata.header("timestamp", version + 1, SITE.year)
        timestamp["meta"] = {"snapshot.json": metadata.entry(forged, version)}
        files[f"clients/{ME}/timestamp.json"] = metadata.sign(timestamp, [SITE.leases["a"]])
    client = SimulatedClient(SITE, tmp_path_factory.mktemp("s"))
    try:
        client.poll(Server(files))
    except (TrustError, TransferError):
        assert list(client.folder.iterdir()) == []


DISTRIBUTION = sorted(name for name in SITE.distribution if not name.endswith("/1.root.json") and "1.apps" not in name)


@pytest.mark.parametrize(
    "kind", ["timestamp.json", "snapshot.json", "targets.json", "apps.json", "site.json", "2.root.json"]
)
@QUICK
@given(data=st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_from_a_distribution_server(kind: str, data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    names = [name for name in [*SITE.distribution, "metadata/2.root.json"] if name.endswith(kind)]
    client = SimulatedClient(SITE, tmp_path_factory.mktemp("d"))
    with pytest.raises((TrustError, TransferError)):
        client.look(Server({**SITE.distribution, **dict.fromkeys(names, data)})).find(
            "packages/apps/viewer/1.0/manifest.json"
        )


@given(st.binary(max_size=400) | JSON.map(lambda value: json.dumps(value).encode()))
def test_parsers_of_what_people_hand_around(data: bytes) -> None:
    for parse in (
        lambda: ceremony.load_root(data),
        lambda: ceremony.load_targets(data),
        lambda: metadata.read_version(data, "targets"),
        lambda: envelopes.read(data, payload_type="t", max_bytes=10_000),
        lambda: delegations.check_team_targets(SITE.top, "apps", data, None),
    ):
        with pytest.raises(RequestError):
            parse()


@pytest.mark.parametrize(
    "data", [b"[" * 60_000, b'{"signed":' * 5000, b'{"signed":{"_type":"root","version":' + b"9" * 5000 + b"}}"]
)
def test_deep_and_long_json(data: bytes, tmp_path: Path) -> None:
    for name in ("roots/2.root.json", f"clients/{ME}/timestamp.json"):
        assert poll(tmp_path / name.replace("/", "_"), name, data) in {
            "trust.rogue_root",
            "trust.malformed",
            "trust.endless_data",
        }
