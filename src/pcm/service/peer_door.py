"""The way to the server for peers, closed until a check orders one: most clients have none, and nothing is loaded for it then.

Serves step 8 of other clients, between `supervisor` and `peer_keeper`.
"""

import os

from pcm.service.peer_orders import ORDERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pcm.service.peer_keeper import PeerKeeper


class PeerDoor:
    """See `peer_keeper.PeerKeeper`."""

    def __init__(
        self,
        runtime: str,
        watch: "Callable[[int, Callable[[], None]], None]",
        forget: "Callable[[int], None]",
        say: "Callable[[str], None]",
    ) -> None:
        self._arguments = (runtime, watch, forget, say)
        self._orders = f"{runtime}/{ORDERS}"
        self._keeper: PeerKeeper | None = None

    def look(self, *, checking: bool) -> None:
        """Follow the orders that there are now.

        Args:
            checking: Whether a check is under way.
        """
        if self._keeper is None:
            if not os.path.lexists(self._orders):
                return
            from pcm.service.peer_keeper import PeerKeeper  # noqa: PLC0415 - see above

            self._keeper = PeerKeeper(*self._arguments)
        if checking:
            self._keeper.follow()
        else:
            self._keeper.check_ended()

    def stop(self) -> None:
        """End the server, if there is one."""
        if self._keeper is not None:
            self._keeper.stop()
