"""A private PostgreSQL server for tests: a new cluster in a temporary folder, reached by a Unix socket, gone afterwards."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg

from tests.capabilities import postgresql_programs

# Tests need no durability; all that would wait for the disk is off.
SETTINGS = {
    "autovacuum": "off",
    "fsync": "off",
    "full_page_writes": "off",
    "listen_addresses": "",
    "log_min_messages": "fatal",
    "max_connections": "60",
    "shared_buffers": "32MB",
    "synchronous_commit": "off",
}

_PLENTY = 2**30


class PostgresqlServer:
    """A running server that no other test process knows of.

    Args:
        folder: holds its socket.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count(1)

    def create_database(self) -> str:
        """Make a new empty database; return its SQLAlchemy URL."""
        name = f"pcm{next(self._numbers)}"
        with psycopg.connect(host=str(self._folder), user="postgres", dbname="postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return f"postgresql+psycopg://postgres@/{name}?host={self._folder}"

    def drop_database(self, url: str) -> None:
        """Remove a database, ending whatever connections it still has."""
        name = url.partition("@/")[2].partition("?")[0]
        with psycopg.connect(host=str(self._folder), user="postgres", dbname="postgres", autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def _place() -> str:
    """In memory if there is plenty: making and dropping databases is mostly copying files."""
    memory = "/dev/shm"
    return memory if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > _PLENTY else "/tmp"


@contextmanager
def running_server() -> Iterator[PostgresqlServer]:
    """Make a cluster, serve it, and remove it: about a second to start.

    Raises:
        RuntimeError: the server did not start; its log is in the message.
    """
    programs = postgresql_programs()
    if programs is None:
        message = "PostgreSQL is not installed"
        raise RuntimeError(message)
    folder = Path(tempfile.mkdtemp(prefix="pcm-pg-", dir=_place()))  # short: socket paths end at 107 bytes
    account: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        account = ["--reuid=postgres", "--regid=postgres", "--init-groups"]
    folder.chmod(0o755)
    try:
        initdb = [
            str(programs / "initdb"),
            "--auth=trust",
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
        ]
        run_as(account, [*initdb, "--no-sync", "-D", str(folder / "data")], folder)
        settings = [f"--{name}={value}" for name, value in {**SETTINGS, "unix_socket_directories": folder}.items()]
        with (folder / "log").open("wb") as log:
            # If pytest itself is killed, the kernel ends the server.
            server = subprocess.Popen(
                ["setpriv", *account, "--pdeathsig=INT", programs / "postgres", "-D", folder / "data", *settings],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            await_connections(server, folder)
            yield PostgresqlServer(folder)
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(timeout=30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_as(account: list[str], command: list[str], folder: Path) -> None:
    """Run one of PostgreSQL's programs to its end."""
    answer = subprocess.run(["setpriv", *account, *command], cwd=folder, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        message = f"{command[0]} failed:\n{answer.stdout}{answer.stderr}"
        raise RuntimeError(message)


def await_connections(server: subprocess.Popen[bytes], folder: Path) -> None:
    """Return once the server takes connections."""
    deadline = time.monotonic() + 30
    while server.poll() is None and time.monotonic() < deadline:
        try:
            psycopg.connect(host=str(folder), user="postgres", dbname="postgres").close()
        except psycopg.OperationalError:
            time.sleep(0.03)
        else:
            return
    message = f"PostgreSQL did not start:\n{(folder / 'log').read_text()}"
    raise RuntimeError(message)
