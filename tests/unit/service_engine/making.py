"""Values for the engine's tests: instructions, manifests, records and situations with sensible defaults."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

from pcm.model.assignment import State as Stage
from pcm.model.facts import Facts
from pcm.model.instruction import Instruction, ManifestReference
from pcm.model.package import PackageFile
from pcm.model.program import Program
from pcm.protocol.manifest import Manifest, manifest_target
from pcm.service.plan import Situation
from pcm.service.records import InstructionRecord

CLIENT = "0123456789abcdef0123456789abcdef"
NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)  # a Wednesday
PAST = NOON - timedelta(days=1)
INSTALL = Program(argv=("./setup",), timeout_s=600)


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def job_id(number: int) -> str:
    return f"j{number:010d}"


def instruction(number: int = 1, **fields: Any) -> Instruction:
    """A mandatory instruction that has been due since yesterday; package `pkg<number>`, unless the fields say otherwise."""
    package = fields.get("package", f"pkg{number}")
    values: dict[str, Any] = {
        "id": f"{job_id(number)}.{CLIENT[:12]}",
        "generation": 1,
        "job": job_id(number),
        "package": package,
        "version": "1.0",
        "release": 1,
        "program": "install",
        "purpose": "mandatory",
        "offer_after": PAST,
    }
    values.update(fields)
    if values["purpose"] == "mandatory":
        values.setdefault("mandatory_after", PAST)
    path = manifest_target("team", package, values["version"])
    values.setdefault("manifest", ManifestReference(path, 100, sha(f"{package} {values['release']}")))
    return Instruction(**values)


def manifest(wanted: Instruction, programs: dict[str, Program] | None = None, **fields: Any) -> Manifest:
    """The manifest that an instruction means."""
    values: dict[str, Any] = {
        "package": wanted.package,
        "version": wanted.version,
        "release": wanted.release,
        "platforms": ("linux-any",),
        "programs": programs or {wanted.program: INSTALL},
        "files": (PackageFile("setup", 1, sha("x"), True),),
        "signed_at": PAST - timedelta(days=30),
    }
    values.update(fields)
    return Manifest(**values)


def record(wanted: Instruction | None = None, **fields: Any) -> InstructionRecord:
    """What the journal knows of an instruction it has just taken in."""
    wanted = wanted or instruction()
    values: dict[str, Any] = {
        "id": wanted.id,
        "generation": wanted.generation,
        "instruction": wanted,
        "state": Stage.OFFERED,
        "first_seen": PAST,
        "changed": PAST,
        "manifest_sha256": wanted.manifest.sha256,
        "fetched": True,
    }
    values.update(fields)
    return InstructionRecord(**values)


def situation(*manifests: tuple[Instruction, Manifest] | Instruction, **fields: Any) -> Situation:
    """A Linux computer without windows, policy or people. Instructions alone get the manifest they mean."""
    pairs = [each if isinstance(each, tuple) else (each, manifest(each)) for each in manifests]
    values: dict[str, Any] = {
        "client_id": CLIENT,
        "facts": Facts(host_name="host", platform="linux-x86_64"),
        "zone": UTC,
        "manifests": {wanted.manifest.sha256: its for wanted, its in pairs},
    }
    values.update(fields)
    return Situation(**values)
