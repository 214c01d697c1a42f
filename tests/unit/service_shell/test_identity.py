"""The client's key: read by its usual form or by any other, and the same id that everybody else computes from it."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pcm.model.errors import StoreError
from pcm.service.identity import load_identity, make_identity
from pcm.trust.envelopes import client_id_of


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def test_its_id_is_the_one_that_trust_computes(tmp_path: Path) -> None:
    made = make_identity(tmp_path / "identity.pem")
    again = load_identity(tmp_path / "identity.pem")
    assert made.client_id == again.client_id == client_id_of(again.key.public_key())
    assert made.public_pem() == again.public_pem()


def test_another_form_of_the_key_is_read_too(tmp_path: Path) -> None:
    key = generate_private_key(SECP256R1())
    other = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    assert load_identity(write(tmp_path / "key", other)).client_id == client_id_of(key.public_key())


@pytest.mark.parametrize("at", [40, 100, 130, 160, 200])
def test_a_damaged_key_is_never_taken_for_another_one(tmp_path: Path, at: int) -> None:
    make_identity(tmp_path / "identity.pem")
    data = bytearray((tmp_path / "identity.pem").read_bytes())
    data[at] = ord("A") if data[at] != ord("A") else ord("B")
    with pytest.raises(StoreError) as refused:
        load_identity(write(tmp_path / "damaged", bytes(data)))
    assert refused.value.code == "store.damaged"


def test_another_curve_is_no_key_of_a_client(tmp_path: Path) -> None:
    pem = generate_private_key(SECP384R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(StoreError):
        load_identity(write(tmp_path / "key", pem))


def test_q127052_an_id_belongs_to_one_key_and_no_two_computers_get_the_same(tmp_path: Path) -> None:
    made = {make_identity(tmp_path / f"{number}.pem").client_id for number in range(50)}
    assert len(made) == 50
    first = load_identity(tmp_path / "0.pem")
    assert make_identity(tmp_path / "0.pem").client_id == first.client_id  # asked again, it stays who it is
    (tmp_path / "0.pem").unlink()
    assert make_identity(tmp_path / "0.pem").client_id not in made  # what is lost is never issued again
