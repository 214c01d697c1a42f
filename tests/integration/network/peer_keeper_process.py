"""The resident part of a client that has a server for peers, alone: `RUNTIME`. It follows the orders there until it is killed."""

import os
import select
import sys
from collections.abc import Callable

from pcm.service.peer_keeper import PeerKeeper
from pcm.service.peer_orders import write_file


def main() -> None:
    runtime = sys.argv[1]
    poll, ready = select.poll(), dict[int, Callable[[], None]]()

    def watch(descriptor: int, serve: Callable[[], None]) -> None:
        ready[descriptor] = serve
        poll.register(descriptor, select.POLLIN)

    def forget(descriptor: int) -> None:
        if ready.pop(descriptor, None) is not None:
            poll.unregister(descriptor)

    def say(text: str) -> None:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    keeper = PeerKeeper(runtime, watch, forget, say)
    os.set_blocking(0, False)
    while True:
        keeper.follow()
        child = keeper._child
        write_file(f"{runtime}/child", b"%d" % (child.process_id if child else 0))
        for descriptor, _ in poll.poll(200):
            serve = ready.get(descriptor)
            if serve is not None:
                serve()


if __name__ == "__main__":
    main()
