"""What the network side is asked for when content is brought: the limits that follow from a file's signed length."""

from datetime import datetime
from typing import cast

import pytest

from pcm.model.content_policy import ContentPolicy
from pcm.model.errors import TransferError
from pcm.model.package import PackageFile
from pcm.service.content_carrier import ContentCarrier
from pcm.service.content_limits import Limits
from pcm.transport.client import TransferClient
from pcm.transport.framing import Request


class Asked:
    """A client of a transfer process that keeps what it is asked, and brings nothing."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def fetch(self, request: Request) -> None:
        self.requests.append(request)
        raise TransferError("Nothing comes.", code="transfer.unreachable")


def asked_for(length: int, policy: ContentPolicy) -> Request:
    client = Asked()
    limits = Limits(policy, lambda: datetime(2026, 1, 5, 12), lambda: False)
    carrier = ContentCarrier(cast("TransferClient", client), lambda: cast("TransferClient", client), limits)
    with pytest.raises(TransferError):
        list(carrier.fetch_object("https://h", PackageFile("x", length, "0" * 64), None))
    [request] = client.requests
    return request


def test_the_time_for_a_file_follows_from_its_length() -> None:
    small, large = asked_for(1, ContentPolicy()), asked_for(100 << 30, ContentPolicy())
    assert small.total_s < 120
    assert large.total_s > 100 * 2**30 / (large.min_rate or 1) > 86_400
    assert large.max_bytes > 100 << 30
    assert large.max_decoded_bytes == 100 << 30


def test_a_server_is_not_blamed_for_a_rate_that_the_site_wants() -> None:
    request = asked_for(1 << 20, ContentPolicy(rate=1024))
    assert request.max_rate == 1024
    assert request.min_rate < 1024
    assert request.total_s > (1 << 20) / 1024
