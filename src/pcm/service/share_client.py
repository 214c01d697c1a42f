"""The transfer client as the service uses it: with an account for questions to shares, and only for those.

Serves steps 6 and 8, between `sources` and `transport.client`. It hands the account to the transfer process with the question
that needs it, and minds what comes back. Costs nothing until a share is asked for.
"""

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

from pcm.model.errors import PcmError, TransferError
from pcm.service.places import Places
from pcm.transport.channel import Channel
from pcm.transport.client import Response, TransferClient
from pcm.transport.framing import Request, Settings, transfer_error

if TYPE_CHECKING:
    from pcm.service.account import Account, Peace


class ShareClient(TransferClient):
    """See `TransferClient`.

    Args:
        places: Where the account's file is, and what is remembered of it.
        clock: Aware, UTC.
    """

    def __init__(
        self, open_channel: Callable[[], Channel], settings: Settings, places: Places, clock: Callable[[], datetime]
    ) -> None:
        super().__init__(open_channel, settings)
        self._places, self._clock = places, clock
        self._account: Account | None = None
        self._peace: Peace | None = None
        self._forced = False

    def end_pauses(self) -> None:
        """An administrator asks: an account that rests may be tried once more."""
        self._forced = True

    def exchange(self, request: Request) -> Response:
        """See `TransferClient.exchange`.

        Raises:
            TransferError: also, for shares, `transfer.no_account`, and what `account.Peace.require` says.
            StoreError: a refusal cannot be kept, so nothing more is asked.
        """
        if not request.url.startswith("smb:"):
            return super().exchange(request)
        account, peace = self._load()
        text = account.text_for(request.url)
        peace.require(account, self._clock())
        try:
            response = super().exchange(request._replace(account=text))
        except TransferError as error:
            peace.note(account, error, self._clock())
            raise
        peace.forget()
        return response

    def _load(self) -> "tuple[Account, Peace]":
        from pcm.service.account import Peace, load_account  # noqa: PLC0415 - only where there are shares

        if self._account is None or self._peace is None:
            try:
                self._account = load_account(self._places)
            except PcmError as error:
                raise transfer_error("transfer.no_account", error.message) from error
            self._peace = Peace(self._places.account_rest)
            if self._forced:
                self._peace.force()
        return self._account, self._peace
