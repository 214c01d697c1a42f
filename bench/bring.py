"""One client's fetch of one package, as a process of its own.

It does what the service's worker does between the verified manifest and the filled store, by that one's own modules and its own
transfer processes, and imports nothing of a site.

Arguments: the new version's listing (JSON, as `content_ours` writes it), the old one's or `-`, the store's folder, the server's
address, a certificate authority or `-`. Prints one line of JSON: the ways, and complaints.
"""

from bench import as_worker  # noqa: F401 - first

# isort: split
import json
import sys
from datetime import datetime
from pathlib import Path

import msgspec

from pcm.content.assembly import Brought, Wanted, bring
from pcm.content.bundle_index import Listing
from pcm.content.bundles import Version
from pcm.content.client_store import ClientStore
from pcm.content.ways import Link
from pcm.model.content_policy import ContentPolicy
from pcm.model.package import PackageFile
from pcm.protocol.enrolment import ClientConfiguration
from pcm.service.content_carrier import ContentCarrier
from pcm.service.content_limits import Limits
from pcm.service.machine.here import this_machine
from pcm.service.transfer_start import TransferStart, transfer_settings
from pcm.transport.client import TransferClient


class Written(msgspec.Struct):
    """A version's listing in a file."""

    sha256: str
    files: tuple[PackageFile, ...]


def read_listing(path: str) -> Listing:
    """The listing that `write_listing` wrote."""
    written = msgspec.json.decode(Path(path).read_bytes(), type=Written)
    return Listing(written.sha256, written.files)


def write_listing(path: Path, listing: Listing) -> None:
    """Write it for this process."""
    path.write_bytes(msgspec.json.encode(Written(listing.sha256, tuple(listing.files))))


def main() -> int:
    """See the module's docstring."""
    new_path, old_path, folder, url, authority = sys.argv[1:6]
    new = read_listing(new_path)
    olds = () if old_path == "-" else (Version(read_listing(old_path), "the old version"),)
    configuration = ClientConfiguration(
        site="bench",
        logon=(url,),
        distribution=(url,),
        instructions_root="",
        packages_root="",
        ca_file=None if authority == "-" else authority,
    )
    machine = this_machine()

    def open_client() -> TransferClient:
        return TransferClient(TransferStart(machine, configuration), transfer_settings(configuration))

    limits = Limits(ContentPolicy(), lambda: datetime.now().astimezone(), lambda: False)
    store, client = ClientStore(Path(folder)), open_client()
    with ContentCarrier(client, open_client, limits) as carrier:
        brought = bring(Wanted(new.files, new, olds), store, [url], carrier, Link())
    client.close()
    print(json.dumps(_told(brought)))
    return 0


def _told(brought: Brought) -> dict[str, object]:
    return {
        "files": brought.files,
        "complaints": [str(each) for each in brought.complaints],
        "ways": {f"{each.way} {each.text}": [each.files, each.bytes] for each in brought.choice.reasons}
        if brought.choice
        else {},
    }


if __name__ == "__main__":
    sys.exit(main())
