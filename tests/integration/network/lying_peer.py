"""A peer that says it has some groups of files of 2 MB, and gives something else: `MANNERS KEY...`.

Nothing of ours; it answers whoever connects.
"""

import os
import socket
import sys
import threading
import time

PORT = 8441


def main() -> None:
    manners, keys = sys.argv[1], frozenset(sys.argv[2:])
    listener = socket.create_server(("0.0.0.0", PORT))
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=answer, args=(sock, manners, keys), daemon=True).start()


def answer(sock: socket.socket, manners: str, keys: frozenset[str]) -> None:
    try:
        while head := read_head(sock):
            if head.startswith(b"POST"):
                say_all(sock, head, manners, keys)
            else:
                give(sock, manners)
    except OSError:
        return


def read_head(sock: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(1)
        if not more:
            return b""
        data += more
    return data


def say_all(sock: socket.socket, head: bytes, manners: str, keys: frozenset[str]) -> None:
    [length] = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
    body = b""
    while len(body) < length:
        body += sock.recv(length - len(body))
    asked = (body[at : at + 32].hex() for at in range(0, length, 32))
    states = b"".join(b"y\0" if key in keys else b"n\0" for key in asked)
    said = os.urandom(16 + length // 16) if manners == "nonsense" else b"L" * 16 + states
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(said) + said)


def give(sock: socket.socket, manners: str) -> None:
    if manners == "redirect":
        sock.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://10.77.0.1/secret\r\nContent-Length: 0\r\n\r\n")
    elif manners == "slow":
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            sock.sendall(b"x" * 100)
            time.sleep(0.1)
    elif manners == "endless":
        sock.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while True:
            sock.sendall(os.urandom(65536))
    else:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n" + os.urandom(2000000))


if __name__ == "__main__":
    main()
