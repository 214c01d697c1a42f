"""Which servers are near: those whose number is in a subnet of this computer, and nobody is asked about names."""

from pcm.peers.subnets import Subnet
from pcm.service.nearness import near_servers

OWN = [Subnet(bytes((10, 0, 0, 5)), 24), Subnet(bytes.fromhex("fd00" + "00" * 13 + "05"), 64)]


def test_numbers_in_this_subnet_are_near() -> None:
    servers = (
        "https://10.0.0.9/distribution", "http://10.0.1.9:8080/d", "https://[fd00::9]/d", "smb://10.0.0.7/share", "https://dist.example.org",
        "file:///media/stick",
    )  # fmt: skip
    assert near_servers(servers, lambda: OWN) == {servers[0], servers[2], servers[3]}


def test_where_there_is_no_choice_nobody_looks() -> None:
    def look() -> list[Subnet]:
        raise AssertionError

    assert near_servers(("https://10.0.0.9/d",), look) == frozenset()
    assert near_servers(("https://a.example.org", "file:///b"), look) == frozenset()


def test_a_kernel_that_does_not_tell_makes_nobody_near() -> None:
    def look() -> list[Subnet]:
        raise OSError

    assert near_servers(("https://10.0.0.9/d", "https://10.0.0.8/d"), look) == frozenset()
