"""The client's self-extracting setup as a file: what it says of itself, whether it is whole, and a site's kit put behind it.

Comes before step 6, on the administrator's machine. Before: `make packages` made a setup without a site. After: whoever is given
the result runs it as root (docs/install.md). It executes nothing, and holds the file against its own hashes only: who made it is
for the administrator to know.

A setup is a shell script (the head), an archive, and perhaps a kit. The head names the length and SHA-256 of the other two.
"""

import hashlib
import re
from typing import NamedTuple

from pcm.model.errors import RequestError

_LENGTH = "@HEAD_BYTES@"
_MOST_HEAD = 64 * 1024
_FIELD = r"(?m)^{}=(.*)$"
_TOLD = re.compile(r"[^A-Za-z0-9 .,:;()/_-]")


class SetupFile(NamedTuple):
    """One setup. `head`: its script, as it stands. `told`: what it says about its site, or that it has none."""

    head: str
    archive: bytes
    kit: bytes

    @property
    def version(self) -> str:
        """The client's version in it."""
        return _field(self.head, "VERSION").strip("'")

    @property
    def machine(self) -> str:
        """The kind of processor that it is for, as `uname -m` says it."""
        return _field(self.head, "MACHINE").strip("'")

    def preset(self, kit: bytes, told: str) -> bytes:
        """The setup with a kit, instead of the one that it may have.

        Args:
            kit: an enrolment kit, with a token or without.
            told: what people shall read about it, as in `client of site lab`; anything but plain characters is left out.
        """
        head = self.head
        values = {
            "KIT_BYTES": str(len(kit)),
            "KIT_SHA256": hashlib.sha256(kit).hexdigest(),
            "KIT_TOLD": f"'{_TOLD.sub('', told)}'",
        }
        for name, value in {"HEAD_BYTES": _LENGTH, **values}.items():
            _field(head, name)
            head = re.sub(_FIELD.format(name), f"{name}={value}", head, count=1)
        return with_length(head) + self.archive + kit


def with_length(head: str) -> bytes:
    """A head with its own length in it, where it says `@HEAD_BYTES@`."""
    digits = 1
    while len(str(length := len(head.replace(_LENGTH, "0" * digits).encode()))) != digits:
        digits += 1
    return head.replace(_LENGTH, str(length)).encode()


def read_setup(data: bytes, name: str) -> SetupFile:
    """Take a setup apart, and hold every part against what the head says.

    Args:
        name: of the file, for messages.

    Raises:
        RequestError: `request.setup`: it is none, or it is damaged.
    """
    start = data[:_MOST_HEAD].decode("latin-1")
    if not start.startswith("#!/bin/sh\n# Package Command Manager client "):
        raise RequestError(f"{name} is no setup of the client; `make packages` makes one.", code="request.setup")
    lengths = [int(_field(start, part)) for part in ("HEAD_BYTES", "PAYLOAD_BYTES", "KIT_BYTES")]
    head, archive, kit = lengths
    if sum(lengths) != len(data):
        raise _damaged(name, f"it has {len(data)} bytes instead of {sum(lengths)}")
    setup = SetupFile(data[:head].decode("utf-8", "replace"), data[head : head + archive], data[head + archive :])
    if hashlib.sha256(setup.archive).hexdigest() != _field(start, "PAYLOAD_SHA256"):
        raise _damaged(name, "its archive is not what it was made with")
    if kit and hashlib.sha256(setup.kit).hexdigest() != _field(start, "KIT_SHA256"):
        raise _damaged(name, "its kit is not what it was made with")
    return setup


def _field(head: str, name: str) -> str:
    found = re.search(_FIELD.format(name), head)
    if found is None or (name.endswith("_BYTES") and not found[1].isdigit() and found[1] != _LENGTH):
        raise RequestError(f"This setup does not say its {name}: it is none that this pcm knows.", code="request.setup")
    return found[1]


def _damaged(name: str, why: str) -> RequestError:
    return RequestError(f"{name} is damaged: {why}. Copy it again, or make it again.", code="request.setup")
