"""A transfer process that somebody has taken over, and the open files it is given: it reads them, now and later, and that is all."""

import json
import os
import socket
from pathlib import Path

import pytest

from pcm.service.machine.interface import OwnProgram
from pcm.service.machine.linux.computer import LinuxMachine
from pcm.transport.channel import SocketChannel
from pcm.transport.client import TransferClient
from pcm.transport.framing import Request

TREE = Path(__file__).parents[3]


@pytest.mark.needs("users")
def test_it_can_change_no_file_that_it_was_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(TREE))
    machine = LinuxMachine()

    def open_hoarder() -> SocketChannel:
        ours, theirs = socket.socketpair()
        with theirs:
            program = OwnProgram(
                "tests.integration.transport.taken_over",
                "hoard",
                (str(theirs.fileno()),),
                account=machine.transfer_account("_nobody-of-that-name"),
                kept_descriptors=(theirs.fileno(),),
            )
            child = machine.spawn(program)
        return SocketChannel(ours, child.close)

    content = b"what came until now"
    (tmp_path / "part").write_bytes(content)
    (tmp_path / "part").chmod(0o600)
    before = (tmp_path / "part").stat()
    part = os.open(tmp_path / "part", os.O_RDWR)
    client = TransferClient(open_hoarder)
    request = Request("http://h/", decode="zstd", max_decoded_bytes=100_000, max_bytes=100_000, total_s=30)
    for asked in (request._replace(part=part), request):  # while it has the file by right, and when it has kept it
        [told] = json.loads(client.fetch(asked).read())
        assert told.pop("read") == "done"
        assert "done" not in told.values(), told
        after = (tmp_path / "part").stat()
        assert (after.st_size, after.st_mode, after.st_uid, after.st_mtime, after.st_nlink) == (
            *(before.st_size, before.st_mode, before.st_uid, before.st_mtime, before.st_nlink),
        )
        assert (tmp_path / "part").read_bytes() == content
    os.close(part)
    client.close()
