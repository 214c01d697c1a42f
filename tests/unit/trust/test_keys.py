"""Key files and keyrings: encrypted, private, never overwritten, open to other kinds of keys."""

import json
from pathlib import Path
from typing import ClassVar

import pytest
from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, CryptoSigner, Key, SecretsHandler, Signer, SSlibKey

from pcm.model.errors import RequestError
from pcm.trust import envelopes, keys
from pcm.trust.keyring import Keyring

CHEAP = 2  # scrypt rounds: these tests are about files, not about guessing


def ring(folder: Path, passphrase: str | None = "correct horse") -> Keyring:
    return Keyring(folder, None if passphrase is None else (lambda: passphrase), rounds=CHEAP)


def refused(action: object) -> RequestError:
    with pytest.raises(RequestError) as caught:
        action()  # type: ignore[operator]
    return caught.value


def test_a_key_signs_what_its_public_form_verifies(tmp_path: Path) -> None:
    public = ring(tmp_path).create("root-1")
    signature = ring(tmp_path).signer("root-1").sign(b"data")
    ring(tmp_path).public("root-1").verify_signature(signature, b"data")
    assert signature.keyid == public.keyid
    assert keys.key_name(public) == "root-1"
    assert (
        public.keyid
        == SSlibKey.from_crypto(public._crypto_key()).keyid
        == envelopes.ed25519_keyid(public.keyval["public"])
    )


def test_the_private_file_is_encrypted_and_private(tmp_path: Path) -> None:
    ring(tmp_path / "ring").create("root-1")
    path = tmp_path / "ring" / "root-1.pem"
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in path.read_bytes()
    assert (tmp_path / "ring").stat().st_mode & 0o777 == 0o700


def test_the_real_cost_of_a_guess_is_scrypts(tmp_path: Path) -> None:
    Keyring(tmp_path, lambda: "x").create("root-1")
    assert (tmp_path / "root-1.pem").read_bytes().startswith(b"pcm-scrypt: n=32768 salt=")


@pytest.mark.parametrize("wrong", ["incorrect horse", "", "correct horse "])
def test_a_wrong_passphrase_is_said_clearly(tmp_path: Path, wrong: str) -> None:
    ring(tmp_path).create("root-1")
    error = refused(lambda: ring(tmp_path, wrong).signer("root-1"))
    assert (error.code, str(error)) == ("request.passphrase", "The passphrase of key root-1 is wrong.")


def test_no_passphrase_for_an_encrypted_key(tmp_path: Path) -> None:
    ring(tmp_path).create("root-1")
    assert refused(lambda: ring(tmp_path, None).signer("root-1")).code == "request.passphrase"


def test_an_empty_passphrase_makes_no_key(tmp_path: Path) -> None:
    assert refused(lambda: ring(tmp_path, "").create("root-1")).code == "request.passphrase"
    assert ring(tmp_path).names() == []


def test_online_keys_open_without_one(tmp_path: Path) -> None:
    ring(tmp_path, None).create("policy")
    assert ring(tmp_path, None).signer("policy").sign(b"x")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666])
def test_a_key_that_others_can_read_is_not_used(tmp_path: Path, mode: int) -> None:
    ring(tmp_path).create("root-1")
    (tmp_path / "root-1.pem").chmod(mode)
    assert refused(lambda: ring(tmp_path).signer("root-1")).code == "request.key_exposed"


def test_a_link_in_place_of_a_key_is_not_followed(tmp_path: Path) -> None:
    ring(tmp_path / "a").create("root-1")
    (tmp_path / "a" / "root-1.pem").rename(tmp_path / "elsewhere.pem")
    (tmp_path / "a" / "root-1.pem").symlink_to(tmp_path / "elsewhere.pem")
    assert refused(lambda: ring(tmp_path / "a").signer("root-1")).code == "request.key"


def test_keys_are_never_overwritten(tmp_path: Path) -> None:
    ring(tmp_path).create("root-1")
    before = (tmp_path / "root-1.pem").read_bytes()
    assert refused(lambda: ring(tmp_path).create("root-1")).code == "conflict"
    (tmp_path / "root-1.json").unlink()
    assert refused(lambda: ring(tmp_path).create("root-1")).code == "conflict"
    assert (tmp_path / "root-1.pem").read_bytes() == before


@pytest.mark.parametrize("name", ["", "../x", "Root", "a/b", ".hidden", "a b", "x" * 101])
def test_names_stay_in_the_folder(tmp_path: Path, name: str) -> None:
    assert refused(lambda: ring(tmp_path).create(name)).code == "request.name"


def test_a_swapped_private_key_is_noticed(tmp_path: Path) -> None:
    both = ring(tmp_path)
    both.create("a")
    both.create("b")
    (tmp_path / "b.pem").write_bytes((tmp_path / "a.pem").read_bytes())
    assert refused(lambda: both.signer("b")).code == "request.key"


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"keyid":1}', b'{"keyid":"a","uri":"pcmkey:x","key":{}}', b"\xff"]
)
def test_a_damaged_public_file(tmp_path: Path, data: bytes) -> None:
    ring(tmp_path).create("a")
    (tmp_path / "a.json").write_bytes(data)
    assert refused(lambda: ring(tmp_path).public("a")).code == "request.key"


@pytest.mark.parametrize(
    "data",
    [b"", b"junk", b"pcm-scrypt: n=3 salt=" + b"0" * 32 + b"\n", b"pcm-scrypt: n=2 salt=" + b"0" * 32 + b"\njunk"],
)
def test_a_damaged_private_file(tmp_path: Path, data: bytes) -> None:
    ring(tmp_path).create("a")
    (tmp_path / "a.pem").write_bytes(data)
    assert refused(lambda: ring(tmp_path).signer("a")).code == "request.key"


def test_an_unknown_key(tmp_path: Path) -> None:
    assert refused(lambda: ring(tmp_path).signer("a")).code == "not_found"
    assert ring(tmp_path / "nowhere").names() == []


class DrawerSigner(Signer):
    """A kind of key that this product has never heard of."""

    pairs: ClassVar[dict[str, CryptoSigner]] = {}

    def __init__(self, pair: CryptoSigner) -> None:
        self._pair = pair

    @property
    def public_key(self) -> Key:
        return self._pair.public_key

    def sign(self, payload: bytes) -> object:  # type: ignore[override]
        return self._pair.sign(payload)

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> "DrawerSigner":
        assert secrets_handler is not None
        assert secrets_handler("PIN") == "1234"
        return cls(cls.pairs[priv_key_uri])


def test_other_kinds_of_keys_come_by_their_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIGNER_FOR_URI_SCHEME, "drawer", DrawerSigner)
    pair = DrawerSigner.pairs["drawer:7"] = keys.generate()
    keyring = ring(tmp_path, "1234")
    keyring.register("root-1", "drawer:7", pair.public_key)
    assert keyring.signer("root-1").sign(b"x").keyid == pair.public_key.keyid
    assert not (tmp_path / "root-1.pem").exists()


def test_an_unknown_scheme(tmp_path: Path) -> None:
    ring(tmp_path).register("x", "nosuch:1", keys.generate().public_key)
    assert refused(lambda: ring(tmp_path).signer("x")).code == "request.key"


def test_signers_are_found_by_key_id(tmp_path: Path) -> None:
    keyring = ring(tmp_path)
    wanted = {keyring.create("a").keyid, keyring.create("c").keyid}
    keyring.create("b")
    assert {signer.public_key.keyid for signer in keyring.signers_for(wanted)} == wanted


def test_nothing_private_stands_in_the_public_file(tmp_path: Path) -> None:
    ring(tmp_path, None).create("a")
    record = json.loads((tmp_path / "a.json").read_bytes())
    assert set(record) == {"name", "keyid", "uri", "key"}
    assert set(record["key"]) == {"keytype", "scheme", "keyval", "x-pcm-name"}
