"""The way to shares, closed until somebody asks for one: SMB costs 100 ms and 20 MB, and is an extra that may be missing.

Serves steps 6 and 8, inside the transfer process, between `transfer` and `smb`.
"""

from typing import TYPE_CHECKING

from pcm.transport.framing import Request, transfer_error
from pcm.transport.pace import Pace

if TYPE_CHECKING:
    from pcm.transport.smb import Shares, SmbAnswer


class SharesDoor:
    """Opens files on shares; loads what it takes at the first one."""

    def __init__(self) -> None:
        self._shares: Shares | None = None

    def open(self, request: Request, pace: Pace) -> "SmbAnswer":
        """See `smb.Shares.open`.

        Raises:
            TransferError: also `transfer.no_smb`: this installation has no SMB library.
        """
        if self._shares is None:
            try:
                from pcm.transport.smb import Shares  # noqa: PLC0415 - see above
            except ImportError as error:
                raise transfer_error(
                    "transfer.no_smb",
                    f"{request.url} is on a share, and this installation cannot read shares ({error.name} is missing): install "
                    "package-command-manager with its extra 'smb', or name an https server.",
                ) from error
            self._shares = Shares()
        return self._shares.open(request, pace)

    def close(self) -> None:
        """Close every connection."""
        if self._shares is not None:
            self._shares.close()
