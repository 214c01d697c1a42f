"""A site whose servers are two folders, and clients of it as real processes. Keys, signatures and files are real."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pcm.content.objects import object_path, pack
from pcm.model.instruction import Instruction
from pcm.model.package import PackageFile
from pcm.model.program import Program
from pcm.protocol.enrolment import ClientConfiguration
from pcm.protocol.instructions import Servers
from pcm.protocol.manifest import Manifest
from pcm.service.enrolment import install
from pcm.service.identity import make_identity
from pcm.service.places import Places, create_places, find_places
from pcm.service.state import State
from tests.unit.trust.simulated import SITE, SimulatedSite, a_manifest, instruction_for, utc_now


class StaticSite(SimulatedSite):
    """`SimulatedSite`, with its files written to folders that anybody may read."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.logon_folder = folder / "logon"
        self.distribution_folder = folder / "distribution"
        (self.logon_folder / "reports").mkdir(parents=True)
        self.serial = 0
        self.yesterday: dict[str, bytes] = {}
        self.latest = a_manifest()
        self.write()

    def write(self) -> None:
        """Bring the folders up to date: what is pointed at first, timestamps last."""
        for root, files in ((self.logon_folder, self.logon), (self.distribution_folder, self.distribution)):
            for name, data in sorted(files.items(), key=lambda item: item[0].endswith("timestamp.json")):
                put(root / name, data)

    def package(self, marker: Path, *, name: str = "viewer", release: int = 5, **changes: Any) -> Manifest:
        """Publish a package whose program writes one line more to `marker`."""
        script = f"#!/bin/sh\necho installed >> {marker}\necho done\n".encode()
        sha256 = hashlib.sha256(script).hexdigest()
        put(self.distribution_folder / object_path(sha256), b"".join(pack(io.BytesIO(script), len(script))))
        values: dict[str, Any] = {
            "package": name,
            "release": release,
            "platforms": ("linux-any",),
            "files": (PackageFile("setup.sh", len(script), sha256, executable=True),),
            "parameters": {},
            "programs": {"install": Program(argv=("setup.sh",), user_requestable=True)},
        }
        manifest = a_manifest(**{**values, **changes})
        self.publish_manifest(manifest)
        self.write()
        return manifest

    def order(
        self, client_id: str, instructions: Sequence[Instruction], *, at: datetime | None = None, **changes: Any
    ) -> None:
        """Sign this client's next instruction file, as of `at`."""
        self.serial += 1
        changes.setdefault("poll_after_s", 5)
        changes.setdefault("servers", Servers())
        body = self.body(client_id, serial=self.serial, instructions=instructions, **changes)
        self.instruct(body, client=client_id, at=at)
        self.write()

    def configuration(self, **changes: Any) -> ClientConfiguration:
        values: dict[str, Any] = {
            "site": SITE,
            "logon": (f"file://{self.logon_folder}",),
            "distribution": (f"file://{self.distribution_folder}",),
            "instructions_root": self.instruction_roots[0].decode(),
            "packages_root": self.package_roots[0].decode(),
            "transfer_account": "_pcm",
        }
        return ClientConfiguration(**{**values, **changes})


@dataclass
class Client:
    """An enrolled client in a folder of its own."""

    site: StaticSite
    home: Path
    places: Places = field(init=False)
    client_id: str = field(init=False)

    def __post_init__(self) -> None:
        self.places = find_places(self.home)
        create_places(self.places)
        self.client_id = make_identity(self.places.identity).client_id
        install(self.places, self.site.configuration())

    def run(self, *arguments: str, code: int | None = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "pcm.service.main", "--home", str(self.home), *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, **environment},
        )
        assert code is None or done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done

    def answer(self, *arguments: str, code: int | None = 0) -> Any:
        return json.loads(self.run("--json", *arguments, code=code).stdout.splitlines()[0])

    def once(self, code: int | None = 0) -> Any:
        return self.answer("once", code=code)

    def worker_check(self) -> subprocess.CompletedProcess[bytes]:
        """One check as the supervisor starts it."""
        code = "import sys; from pcm.service.worker import main; sys.exit(main())"
        return subprocess.run(
            [sys.executable, "-I", "-c", code, "check", "--home", str(self.home)],
            check=False,
            capture_output=True,
            timeout=60,
        )

    def items(self) -> dict[str, Any]:
        return {item["package"]: item for item in self.answer("list")["items"]}

    def refusals(self) -> list[str]:
        with State.open(self.places.state, utc_now()) as state:
            return [refusal.code for refusal in state.refusals()]

    def mandatory(self, manifest: Manifest, **changes: Any) -> Instruction:
        values: dict[str, Any] = {"purpose": "mandatory", "mandatory_after": utc_now(), "client": self.client_id}
        return instruction_for(manifest, **{**values, **changes})


def put(path: Path, data: bytes) -> None:
    """Write one file of a share, whole or not at all, readable for everybody."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.read_bytes() == data:
        return
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(data)
    fresh.rename(path)


@contextmanager
def shared_folder() -> Iterator[Path]:
    """A folder that the transfer process can read, whoever runs the tests."""
    folder = Path(tempfile.mkdtemp(prefix="pcm-share-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
