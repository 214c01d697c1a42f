"""A program that fetches into a part, and is killed on the way: `resuming.py how url length part plain`."""

import os
import sys

from pcm.transport.client import TransferClient
from pcm.transport.framing import Request
from tests.transfer_process import open_process


def main() -> None:
    """Fetch once, going on where the part ends."""
    how, url, length, part_path, plain_path = sys.argv[1:]
    part = os.open(part_path, os.O_RDWR | os.O_CREAT, 0o600)
    client = TransferClient(open_process)
    request = Request(url, max_bytes=1 << 30, total_s=60)
    if how == "part":
        client.fetch_into(request, part)
        return
    request = request._replace(decode="zstd", max_decoded_bytes=int(length), part=part)
    with client.fetch(request) as response, open(plain_path, "wb") as plain:  # noqa: PTH123
        plain.writelines(response.iter_bytes())
    client.close()


if __name__ == "__main__":
    main()
