"""A Linux computer as `service.machine.interface.Machine`: one object over the modules beside it.

Serves every step of the service. `service.machine.here` makes it; it holds no state but the chosen back end, and what one run
leaves to the next.
"""

import _socket
import os
import struct
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path

from pcm.service.machine.interface import (
    Account,
    Engaged,
    InstanceLock,
    Launch,
    OwnChild,
    OwnProgram,
    Peer,
    Problem,
    Processes,
    RunningProgram,
    RunReference,
    Session,
    Standing,
)
from pcm.service.machine.linux import accounts, clock, presence, spawning
from pcm.service.machine.package_directory import PackageDirectory
from pcm.service.machine.posix import protected
from pcm.service.machine.posix.instance import FileLock

_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))


class LinuxMachine:
    """Implements `Machine`.

    Args:
        processes: the back end for programs; by default systemd's where it serves, else the subreaper's.
    """

    def __init__(self, processes: Processes | None = None) -> None:
        self._chosen = processes
        self._roots: dict[Path, protected.ProtectedFolder] = {}
        self._spares: dict[
            Path, str
        ] = {}  # below a root: the run whose emptied package directory the next one may have

    @property
    def name(self) -> str:
        """Name of the back end for programs."""
        return self._processes.name

    def reference_of(self, launch: Launch) -> RunReference:
        """See `Processes.reference_of`."""
        return self._processes.reference_of(launch)

    def start(self, launch: Launch, reference: RunReference | None = None) -> RunningProgram:
        """See `Processes.start`."""
        return self._processes.start(launch, reference)

    def find_again(self, reference: RunReference) -> RunningProgram | None:
        """See `Processes.find_again`; asks the back end that started the run, whichever is used now."""
        return self._back_end_of(reference).find_again(reference)

    def forgets_soon(self, reference: RunReference) -> bool:
        """See `Processes.forgets_soon`."""
        return self._back_end_of(reference).forgets_soon(reference)

    def forget(self, reference: RunReference) -> None:
        """See `Processes.forget`."""
        self._back_end_of(reference).forget(reference)

    def is_administrator(self) -> bool:
        """Tell whether this process is root."""
        return os.geteuid() == 0

    def boot_id(self) -> str:
        """Identity of this boot."""
        return clock.boot_id()

    def boot_seconds(self) -> float:
        """Seconds since boot, suspended time included."""
        return clock.boot_seconds()

    def restart(self, reason: str, *, ignore_inhibitors: bool = False) -> None:
        """See `linux.power.restart`."""
        from pcm.service.machine.linux.power import restart  # noqa: PLC0415 - once in a boot

        restart(reason, ignore_inhibitors=ignore_inhibitors)

    def restart_marked(self, since: datetime) -> bool:
        """See `linux.power.was_marked`."""
        from pcm.service.machine.linux.power import was_marked  # noqa: PLC0415 - only where programs run

        return was_marked(since)

    def tell_users(self, text: str) -> None:
        """See `linux.terminals.tell`."""
        from pcm.service.machine.linux.terminals import tell  # noqa: PLC0415 - only when there is something to tell

        tell(text)

    def sessions(self) -> Sequence[Session]:
        """People who are logged on now."""
        return presence.sessions()

    def engaged(self, sessions: Sequence[Session]) -> Engaged:
        """See `linux.engaged`: loaded only where something could wait for a better moment."""
        from pcm.service.machine.linux.engaged import engaged  # noqa: PLC0415

        return engaged(sessions)

    def metered(self) -> bool:
        """See `linux.engaged.is_metered`."""
        from pcm.service.machine.linux.engaged import is_metered  # noqa: PLC0415 - only where content comes

        return is_metered()

    def processes_named(self, names: Collection[str]) -> list[Standing]:
        """See `linux.blocking`: loaded only where a program names what is in its way."""
        from pcm.service.machine.linux import blocking  # noqa: PLC0415

        return blocking.processes_named(names)

    def close_processes(self, found: Sequence[Standing], grace_s: float) -> list[Standing]:
        """See `linux.blocking`."""
        from pcm.service.machine.linux import blocking  # noqa: PLC0415

        return blocking.close_processes(found, grace_s)

    def free_bytes(self, path: Path) -> int:
        """Bytes that a file below `path`, or its nearest existing ancestor, may still take."""
        while not path.exists() and path != path.parent:
            path = path.parent
        status = os.statvfs(path)
        if status.f_files and not status.f_favail:
            return 0  # no name is left for a file, however small
        return status.f_bavail * status.f_frsize

    def check_protected(self, path: Path) -> list[Problem]:
        """See `posix.protected.check_protected`."""
        return protected.check_protected(path)

    def stage(self, root: Path, run_id: str, reader: Account | None = None) -> PackageDirectory:
        """See `posix.staging.StagingDirectory.create`."""
        from pcm.service.machine.posix.staging import StagingDirectory  # noqa: PLC0415 - only where programs run

        spare = self._spares.pop(root, "") if reader is None else ""
        user = None if reader is None else reader.user_id
        return StagingDirectory.create(self._root(root), run_id, reader=user, instead=spare)

    def release_staged(self, root: Path, run_id: str) -> None:
        """See `posix.staging.empty_staging`."""
        from pcm.service.machine.posix.staging import empty_staging  # noqa: PLC0415 - only where programs run

        self.remove_spare(root)
        if empty_staging(self._root(root), run_id):
            self._spares[root] = run_id

    def remove_spare(self, root: Path) -> None:
        """See `posix.staging.remove_staging`."""
        spare = self._spares.pop(root, "")
        if spare:
            self.remove_staged(root, spare)

    def remove_staged(self, root: Path, run_id: str) -> None:
        """See `posix.staging.remove_staging`."""
        from pcm.service.machine.posix.staging import remove_staging  # noqa: PLC0415 - only where programs run

        remove_staging(self._root(root), run_id)

    def _root(self, path: Path) -> protected.ProtectedFolder:
        if path not in self._roots:
            self._roots[path] = protected.ProtectedFolder(path)
        return self._roots[path]

    def peer_of(self, connection: _socket.socket) -> Peer:
        """Ask the kernel who is at the other end (as of its connect)."""
        process_id, user_id, group_id = _PEER.unpack(
            connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, _PEER.size)
        )
        return Peer(user_id, group_id, process_id, accounts.name_of(user_id))

    def lock_instance(self, path: Path) -> InstanceLock:
        """See `posix.instance.FileLock.take`."""
        return FileLock.take(path)

    def account(self, name: str) -> Account:
        """See `linux.accounts.account_named`."""
        return accounts.account_named(name)

    def transfer_account(self, name: str) -> Account:
        """See `linux.accounts.transfer_account`; the number stays the same on one computer."""
        machine_id = Path("/etc/machine-id")
        return accounts.transfer_account(name, machine_id.read_text() if machine_id.exists() else "")

    def spawn(self, program: OwnProgram) -> OwnChild:
        """See `linux.spawning.spawn`."""
        return spawning.spawn(program)

    @property
    def _processes(self) -> Processes:
        # chosen, and loaded, at the first run: most processes of the service, the resident one above all, never start a program
        if self._chosen is None:
            self._chosen = _back_end("systemd" if _systemd_serves() else "tree")
        return self._chosen

    def _back_end_of(self, reference: RunReference) -> Processes:
        mine = self._processes
        return mine if mine.name == reference.back_end else _back_end(reference.back_end)


def _systemd_serves() -> bool:
    if not os.path.isdir("/run/systemd/system"):  # noqa: PTH112 - then nothing of it need be loaded (sd_booted(3))
        return False
    from pcm.service.machine.linux.systemd import systemd_serves  # noqa: PLC0415

    return systemd_serves()


def _back_end(name: str) -> Processes:
    if name == "systemd":
        from pcm.service.machine.linux.systemd import SystemdProcesses  # noqa: PLC0415

        return SystemdProcesses()
    from pcm.service.machine.linux.tree import TreeProcesses  # noqa: PLC0415

    return TreeProcesses()
