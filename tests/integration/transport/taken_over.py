"""What a transfer process that somebody has taken over tries with the open files it is given, run in the confined child itself."""

import json
import mmap
import os
import socket
from collections.abc import Callable

from pcm.transport.answers import Head as AnswerHead
from pcm.transport.answers import encode_end, encode_head, encode_hello
from pcm.transport.asks import SocketAsks
from pcm.transport.framing import parse_request
from pcm.transport.hardening import harden


def hoard(arguments: list[str]) -> int:
    """Answer each request with what each way to change the files came to, and keep every file that comes."""
    sock = socket.socket(fileno=int(arguments[0]))
    harden()
    asks, kept = SocketAsks(sock), []
    asks.readline(65536)
    sock.sendall(encode_hello([]))
    while line := asks.readline(65536):
        request_id, _, request = parse_request(line)
        if request.part is not None:
            kept.append(asks.take_file())
        told = json.dumps([{name: outcome(way, file) for name, way in WAYS.items()} for file in kept]).encode()
        sock.sendall(encode_head(request_id, AnswerHead(206 if request.have else 200, {}, request.have)))
        sock.sendall(len(told).to_bytes(4, "big") + told + bytes(4) + encode_end(request_id))
    return 0


def outcome(way: Callable[[int], object], file: int) -> str:
    try:
        way(file)
    except (OSError, ValueError) as error:
        return type(error).__name__
    return "done"


WAYS: dict[str, Callable[[int], object]] = {
    "read": lambda file: os.pread(file, 10, 0),
    "write": lambda file: os.write(file, b"evil"),
    "write at": lambda file: os.pwrite(file, b"evil", 0),
    "cut": lambda file: os.ftruncate(file, 0),
    "lengthen": lambda file: os.posix_fallocate(file, 0, 1 << 20),
    "map": lambda file: mmap.mmap(file, 4, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE),
    "open again": lambda file: os.open(f"/proc/self/fd/{file}", os.O_RDWR),
    "let others": lambda file: os.fchmod(file, 0o666),
    "own": lambda file: os.fchown(file, os.getuid(), -1),
    "date": lambda file: os.utime(file, (0, 0)),
    "link": lambda file: os.link(f"/proc/self/fd/{file}", "/tmp/pcm-test-hoarded", follow_symlinks=True),
    "send": lambda file: os.sendfile(file, file, 0, 4),
}
