"""A keyring: a folder with private keys, each beside its public form.

Serves steps 2, 3 and 5. The offline keyring (root keys, top-level targets, teams, approvers) lives on a medium that
people keep in a drawer; the online one (policy, leases, package snapshot) on the site server. Comes before the
writers, which take `Signer`s. It never overwrites a key and never prints one.

    root-1.pem    private, PKCS#8, encrypted, mode 0600
    root-1.json   public: name, keyid, uri, key

A key in hardware has the JSON only, with its `uri` (`hsm:2`).
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from securesystemslib.signer import Key, Signer, SSlibKey

from pcm.model.errors import RequestError, StoreError
from pcm.trust import keys

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,99}")
_MAX_PUBLIC = 16_384


class Keyring:
    """The keys in one folder.

    Args:
        folder: Made when the first key is.
        ask: Gives the passphrase: of new keys, and when one is opened. None: keys are kept in the clear (online keys only).
        rounds: Cost of the passphrase's stretching.
    """

    def __init__(self, folder: Path, ask: keys.Ask | None = None, *, rounds: int = keys.STRETCH_ROUNDS) -> None:
        self.folder = folder
        self._ask = ask
        self._rounds = rounds

    def names(self) -> list[str]:
        """Names of all keys here, in order."""
        if not self.folder.is_dir():
            return []
        return sorted(path.stem for path in self.folder.glob("*.json") if _NAME.fullmatch(path.stem))

    def create(self, name: str) -> SSlibKey:
        """Make a key pair and keep it.

        Returns:
            Its public form, with its name.

        Raises:
            RequestError: `request.name`; `conflict` if the name is taken; `request.passphrase`.
            StoreError: the folder cannot be written.
        """
        self._check_free(name)
        pair = keys.generate()
        public = keys.public_form(pair.public_key, name)
        private = keys.seal(pair, None if self._ask is None else self._ask(), rounds=self._rounds)
        path = self._private_path(name)
        self._write(path, private, 0o600)
        self._write_public(name, public, f"{keys.SCHEME}:{path.name}")
        return public

    def register(self, name: str, uri: str, public: Key) -> SSlibKey:
        """Note a key that something else keeps, such as an HSM.

        Raises:
            RequestError: as `create`.
        """
        self._check_free(name)
        form = keys.public_form(public, name)
        self._write_public(name, form, uri)
        return form

    def public(self, name: str) -> SSlibKey:
        """Public form of a key.

        Raises:
            RequestError: `not_found`, or `request.key` for a damaged file.
        """
        return self._load(name)[0]

    def signer(self, name: str) -> Signer:
        """Open a private key, asking for its passphrase if it has one.

        Raises:
            RequestError: `not_found`, `request.passphrase`, `request.key_exposed`, `request.key`.
        """
        public, uri = self._load(name)
        scheme, _, rest = uri.partition(":")
        if scheme == keys.SCHEME:
            uri = f"{scheme}:{(self.folder / rest).absolute()}"
        return keys.open_signer(uri, public, self._ask)

    def signers_for(self, keyids: frozenset[str] | set[str]) -> list[Signer]:
        """Open every key of this keyring that is among `keyids`."""
        return [self.signer(name) for name in self.names() if self.public(name).keyid in keyids]

    def _private_path(self, name: str) -> Path:
        return self.folder / f"{name}.pem"

    def _check_free(self, name: str) -> None:
        if _NAME.fullmatch(name) is None:
            raise RequestError(
                f"Key name {name[:60]!r} is not allowed: expected lower-case letters, digits, '.', '-'.",
                code="request.name",
            )
        if (self.folder / f"{name}.json").exists() or self._private_path(name).exists():
            raise RequestError(f"There is already a key {name} in {self.folder}.", code="conflict")

    def _load(self, name: str) -> tuple[SSlibKey, str]:
        path = self.folder / f"{name}.json"
        try:
            with path.open("rb") as file:
                record: Any = json.loads(file.read(_MAX_PUBLIC))
            public = Key.from_dict(record["keyid"], dict(record["key"]))
            uri = record["uri"]
        except FileNotFoundError:
            raise RequestError(f"There is no key {name} in {self.folder}.", code="not_found") from None
        except OSError as error:
            raise RequestError(f"Key {name} cannot be read: {error.strerror}.", code="request.key") from None
        except (ValueError, KeyError, TypeError, RecursionError):
            raise RequestError(f"The public file of key {name} ({path}) is damaged.", code="request.key") from None
        if not isinstance(public, SSlibKey) or not isinstance(uri, str):
            raise RequestError(f"The public file of key {name} ({path}) is damaged.", code="request.key")
        return public, uri

    def _write_public(self, name: str, public: SSlibKey, uri: str) -> None:
        record = {"name": name, "keyid": public.keyid, "uri": uri, "key": public.to_dict()}
        self._write(self.folder / f"{name}.json", (json.dumps(record, indent=1) + "\n").encode(), 0o644)

    def _write(self, path: Path, data: bytes, mode: int) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(f"The key file {path} cannot be written: {error.strerror}.") from error
