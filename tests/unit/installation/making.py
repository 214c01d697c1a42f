"""An installation in a folder: a tree as `tools/packages` makes them, but small, and a computer that only remembers what was asked."""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from pcm.model.errors import MachineError
from pcm.service.facts import read_facts
from pcm.service.installation.layout import WATCH, Layout
from pcm.service.installation.measures import MARK, NETWORK_ACCOUNT, Host
from pcm.service.installation.release import DESCRIPTION, Release, read_release
from pcm.service.machine.interface import Account, Problem
from pcm.service.machine.linux.computer import LinuxMachine
from pcm.service.machine.registration import ServiceState
from pcm.service.places import Places

CONTENT = {"bin/python3.11": b"\x7fELF", "lib/code.py": b"code\n", "lib/deep/er.py": b"deeper\n"}


@dataclass
class RememberedComputer:
    """Implements `Registration` without a computer. `refuse`: names of calls that fail."""

    layout: Layout
    accounts: set[str] = field(default_factory=set)
    enabled: bool = False
    active: bool = False
    up: bool = True
    calls: list[str] = field(default_factory=list)
    refuse: set[str] = field(default_factory=set)
    restarts: int = 0
    watch_enabled: bool = False
    watching: bool = False
    old_worker_in: Path | None = None

    def is_up(self) -> bool:
        return self.up

    def has_account(self, name: str) -> bool:
        return name in self.accounts

    def create_account(self, name: str, described: str) -> None:
        self._note("create_account")
        assert described
        self.accounts.add(name)

    def delete_account(self, name: str) -> None:
        self._note("delete_account")
        self.accounts.discard(name)

    def service(self, name: str) -> ServiceState:
        if name == WATCH:
            found = self.layout.watch_unit if self.layout.watch_unit.exists() else None
            return ServiceState(found, self.watch_enabled, self.watching)
        assert name == "pcmsvc.service"
        found = next((path for path in (self.layout.own_unit, self.layout.packaged_unit) if path.exists()), None)
        return ServiceState(found, self.enabled, self.active, self.restarts)

    def reload(self) -> None:
        self._note("reload")

    def enable(self, name: str) -> None:
        if name == WATCH:
            self._note("enable watch")
            self.watch_enabled = True
            return
        self._note("enable")
        self.enabled = bool(name)

    def disable(self, name: str) -> None:
        if name == WATCH:
            self._note("disable watch")
            self.watch_enabled = False
            return
        self._note("disable")
        self.enabled = not name

    def start(self, name: str) -> None:
        if name == WATCH:
            self._note("start watch")
            self.watching = True
            return
        self._note("start")
        self.active = bool(name)

    def restart(self, name: str) -> None:
        self._note("restart watch" if name == WATCH else "restart")
        assert name
        self.restarts = 0

    def stop(self, name: str) -> None:
        if name == WATCH:
            self._note("stop watch")
            self.watching = False
            return
        self._note("stop")
        self.active = not name

    def runs_from(self, lock: Path, tree: Path) -> bool:
        assert lock.name == "pcmsvc.lock"
        return tree == self.old_worker_in

    def trees_in_use(self, versions: Path) -> set[str]:
        assert versions == self.layout.versions
        return set()

    def _note(self, call: str) -> None:
        if call in self.refuse:
            raise MachineError(f"{call} was refused.", code="machine.registration")
        self.calls.append(call)


class Administrator(LinuxMachine):
    """This computer with an administrator, whoever runs the test; folders above the test's own are not its business."""

    def __init__(self, top: Path, administrator: bool = True) -> None:
        super().__init__()
        self._top, self._administrator = top, administrator

    def is_administrator(self) -> bool:
        return self._administrator

    def account(self, name: str) -> Account:
        assert name == NETWORK_ACCOUNT
        return Account(990, 990, name)

    def check_protected(self, path: Path) -> list[Problem]:
        return [each for each in super().check_protected(path) if Path(each.path).is_relative_to(self._top)]


def make_tree(tree: Path, version: str, content: dict[str, bytes] | None = None) -> Release:
    """A tree with its description."""
    files = {**CONTENT, "share/pcmsvc.service": f"{MARK}: {version}\n".encode(), **(content or {})}
    for name, data in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o755 if name.startswith("bin/") else 0o644)
    described = {
        "type": "pcm.release",
        "spec": "1.0",
        "version": version,
        "platform": read_facts().platform,
        "made_from": [],
        "files": [
            {
                "path": name,
                "length": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "executable": name[:4] == "bin/",
            }
            for name, data in files.items()
        ],
    }
    (tree / DESCRIPTION).write_text(json.dumps(described))
    (tree / DESCRIPTION).chmod(0o644)
    for folder, _, _ in os.walk(tree):
        Path(folder).chmod(0o755)
    return read_release(tree)


def make_host(top: Path, *, administrator: bool = True) -> tuple[Host, RememberedComputer]:
    """A host whose root is a folder."""
    top.mkdir()
    top.chmod(0o755)
    layout = Layout(top)
    for folder in ("usr/bin", "opt", "etc", "var/lib", "run"):
        (top / folder).mkdir(parents=True)
        for made in ((top / folder), *(top / folder).parents):
            if made.is_relative_to(top):
                made.chmod(0o755)
    computer = RememberedComputer(layout)
    places = Places(top / "etc" / "pcm", top / "var" / "lib" / "pcm", top / "run" / "pcm")
    return Host(layout, places, Administrator(top, administrator), computer), computer
