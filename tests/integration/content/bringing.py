"""A program that brings a version into a store, and is killed on the way: `bringing.py case.json store server...`.

The case is a file with the listings of both versions. Prints what travelled, by way.
"""

import json
import sys
from datetime import datetime
from pathlib import Path

import msgspec

from pcm.content.assembly import Wanted, bring
from pcm.content.bundle_index import Listing
from pcm.content.bundles import Version
from pcm.content.client_store import ClientStore
from pcm.content.ways import Link
from pcm.model.content_policy import ContentPolicy
from pcm.model.package import PackageFile
from pcm.service.content_carrier import ContentCarrier
from pcm.service.content_limits import Limits
from pcm.transport.client import TransferClient
from tests.transfer_process import open_process


class Case(msgspec.Struct):
    """Both versions: SHA-256 of the manifest, files."""

    new: tuple[str, tuple[PackageFile, ...]]
    old: tuple[str, tuple[PackageFile, ...]]


def main() -> None:
    """Bring the new version."""
    case = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Case)
    store, sources = ClientStore(Path(sys.argv[2])), sys.argv[3:]
    client = TransferClient(open_process)
    limits = Limits(ContentPolicy(), lambda: datetime(2026, 1, 5, 12), lambda: False)
    wanted = Wanted(case.new[1], Listing(*case.new), (Version(Listing(*case.old), "1.0"),))
    with ContentCarrier(client, lambda: TransferClient(open_process), limits) as carrier:
        brought = bring(wanted, store, sources, carrier, Link(rate=5e6))
    client.close()
    sys.stdout.write(json.dumps([each._asdict() for each in brought.traffic]))


if __name__ == "__main__":
    main()
