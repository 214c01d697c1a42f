"""A peer that says it has everything, and gives something else: `MANNERS`. Nothing of ours; it answers whoever connects."""

import os
import socket
import sys
import threading
import time

PORT = 8441


def main() -> None:
    manners = sys.argv[1]
    listener = socket.create_server(("0.0.0.0", PORT))
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=answer, args=(sock, manners), daemon=True).start()


def answer(sock: socket.socket, manners: str) -> None:
    try:
        while head := read_head(sock):
            if head.startswith(b"POST"):
                say_everything(sock, head, manners)
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


def say_everything(sock: socket.socket, head: bytes, manners: str) -> None:
    [length] = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
    left = length
    while left:
        left -= len(sock.recv(left))
    said = os.urandom(16 + length // 16) if manners == "nonsense" else b"L" * 16 + b"y\0" * (length // 32)
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
