"""The newest verified instruction file without its instructions, as the state keeps it: servers, times, the site's policies.

Serves steps 6–12: `service.inbox` writes it with the file that it has verified; whoever needs one of those values reads it here,
without loading what asks servers. It verifies nothing.
"""

from pcm.model.errors import RequestError, StoreError
from pcm.protocol.instructions import Instructions, read_instructions
from pcm.service.state import State

HEADER = "instructions.header"  # in `meta`


def read_header(state: State) -> Instructions | None:
    """The newest verified instruction file without its instructions; None if there is none yet.

    Raises:
        StoreError: `store.damaged`.
    """
    text = state.meta(HEADER)
    if not text:
        return None
    try:
        return read_instructions(text.encode())
    except RequestError as error:
        raise StoreError(f"The kept instructions cannot be read: {error.message}", code="store.damaged") from None
