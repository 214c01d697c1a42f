"""After this computer has become another client of its site: what belonged to the one before is forgotten, the rest stays.

Serves steps 6 and 12, after `enrolment` has put another key in the place of the old one and `recovery` has settled what was left
open. The numbered chain of reports, the serial of the instruction file and the orders in it belong to an identity: carried on,
the site would take them for a copy's, and this client would take its first file for an old one. Floors, installed releases, runs
and the ledger belong to the computer and stay; nothing here lowers a floor.
"""

from pcm.service import inbox, outbox
from pcm.service.state import State

OWNER = "identity.client_id"
_OF_THE_IDENTITY = (
    inbox.SERIAL, inbox.SHA256, inbox.HEADER, inbox.VALID_UNTIL,
    outbox.ACKNOWLEDGED, outbox.REFUSED, outbox.FACTS, outbox.STOOD_ON, outbox.LEDGER_TOLD,
)  # fmt: skip


def take_over(state: State, client_id: str) -> bool:
    """Make the state this client's, in one transaction; whether it was another's.

    Raises:
        StoreError: this disk; then nothing has changed.
    """
    before = state.meta(OWNER)
    if before == client_id:
        return False
    with state.transaction() as connection:
        if before:
            connection.execute("DELETE FROM outbox")
            connection.execute("DELETE FROM outcomes")
            connection.execute(
                "DELETE FROM instructions WHERE id NOT IN (SELECT instruction FROM runs WHERE finished = 0)"
            )
            for key in _OF_THE_IDENTITY:
                state.delete_meta(key)
            connection.execute("DELETE FROM meta WHERE substr(key, 1, ?) = ?", (len(inbox.ETAG), inbox.ETAG))
        state.set_meta(OWNER, client_id, kept=True)
    return bool(before)
