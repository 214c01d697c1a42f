"""A logon folder and its leases: a client sees the old state or the new one, and never somebody else's."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from pcm.content.whole_files import write_unnamed, write_whole
from pcm.logon.folder import LogonFolder, is_logon_name
from pcm.logon.leases import Leases
from pcm.model.errors import RequestError
from pcm.trust.instruction_repository import sign_instructions, sign_lease

ID = "0123456789abcdef0123456789abcdef"
POLICY = CryptoSigner.generate_ed25519()
LEASE = CryptoSigner.generate_ed25519()
NOW_MS = 1_772_366_400_000
QUARTER_MS = int(3 * 86_400_000 / 4)


class Clock:
    def __init__(self) -> None:
        self.ms = NOW_MS

    def __call__(self) -> int:
        return self.ms


def publish(folder: LogonFolder, body: bytes, now_ms: int) -> None:
    folder.write(sign_instructions(ID, body, POLICY, now_ms).files())
    settle(folder)


def settle(folder: LogonFolder) -> None:
    """Make the last change look older than a tick, as it is when the next poll comes."""
    past = time.time_ns() - 10**9
    os.utime(folder.root / "clients" / ID, ns=(past, past))


def signed(folder: LogonFolder, name: str) -> dict[str, object]:
    content = folder.read(f"clients/{ID}/{name}")
    assert content is not None
    document: dict[str, object] = json.loads(content)["signed"]
    return document


@pytest.fixture
def folder(tmp_path: Path) -> LogonFolder:
    return LogonFolder(tmp_path / "logon")


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        (f"clients/{ID}/timestamp.json", True),
        (f"clients/{ID}/1772366400000.snapshot.json", True),
        (f"clients/{ID}/1772366400000.targets.json", True),
        (f"clients/{ID}/{'a' * 64}.instructions.json", True),
        ("roots/1.root.json", True),
        (f"clients/{ID}/client.pub", False),
        (f"clients/{ID}/../x/timestamp.json", False),
        (f"clients/{ID[:-1]}/timestamp.json", False),
        (f"clients/{ID.upper()}/timestamp.json", False),
        (f"clients/{ID}/timestamp.json\n", False),
        ("roots/0.root.json", False),
        ("roots/../1.root.json", False),
        ("timestamp.json", False),
        ("", False),
    ],
)
def test_only_names_of_the_layout_are_known(folder: LogonFolder, name: str, fits: bool) -> None:
    assert is_logon_name(name) is fits
    if not fits:
        assert folder.read(name) is None
        with pytest.raises(RequestError):
            folder.write({name: b"x"})
        assert not folder.root.exists()


def test_q140928_the_timestamp_comes_last(folder: LogonFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    for way in (write_whole, write_unnamed):

        def noted(path: str, content: bytes, *, durable: bool, way: Callable[..., None] = way) -> None:
            way(path, content, durable=durable)
            order.append(path.rpartition("/")[2].partition(".")[2])

        monkeypatch.setattr(f"pcm.logon.folder.{way.__name__}", noted)
    instructions = sign_instructions(ID, b"{}", POLICY, NOW_MS)
    lease = sign_lease(instructions.targets, LEASE, NOW_MS)
    folder.write({**lease.files(ID), **instructions.files()})
    assert order == ["instructions.json", "targets.json", "snapshot.json", "json"]


def test_the_newest_targets_are_found_by_their_version(folder: LogonFolder) -> None:
    assert folder.newest_targets(ID) is None
    for version in (999, 1000, 998):
        folder.write({f"clients/{ID}/{version}.targets.json": b'{"version":%d}' % version})
    assert folder.newest_targets(ID) == (1000, b'{"version":1000}', True)


@pytest.mark.parametrize("half", [b"", b"{", b'{"signed":{"version":1001}', b"[]", b"\xff"])
def test_targets_that_are_still_being_written_are_passed_over(folder: LogonFolder, half: bytes) -> None:
    folder.write({f"clients/{ID}/1000.targets.json": b"{}", f"clients/{ID}/1001.targets.json": half})
    assert folder.newest_targets(ID) == (1000, b"{}", False)


def test_old_files_go_after_their_grace_and_the_newest_stay(folder: LogonFolder) -> None:
    old, new = (sign_instructions(ID, body, POLICY, NOW_MS + n) for n, body in enumerate((b"old", b"new")))
    for instructions in (old, new):
        folder.write(
            {**instructions.files(), **sign_lease(instructions.targets, LEASE, instructions.version).files(ID)}
        )
    folder.write_key(ID, b"PEM")
    keep = {*new.files(), f"clients/{ID}/{new.version}.snapshot.json"}
    assert folder.remove_old(ID, keep, time.time()) == 0
    assert folder.remove_old(ID, keep, time.time() + 3700) == 3
    left = {path.name for path in (folder.root / "clients" / ID).iterdir()}
    assert left == {name.split("/")[2] for name in keep} | {"timestamp.json", "client.pub"}


def test_a_removed_client_leaves_nothing(folder: LogonFolder) -> None:
    publish(folder, b"{}", NOW_MS)
    assert folder.remove_client(ID) is True
    assert folder.remove_client(ID) is False
    assert list(folder.root.rglob(f"*{ID}*")) == []
    with pytest.raises(RequestError):
        folder.remove_client("../..")


# ---- leases


def test_a_lease_is_signed_when_there_are_instructions(folder: LogonFolder) -> None:
    leases = Leases(folder, LEASE, Clock())
    assert leases.ensure(ID) is None
    publish(folder, b"{}", NOW_MS)
    assert leases.ensure(ID) == f'"{NOW_MS:x}"'
    assert signed(folder, "timestamp.json")["version"] == NOW_MS
    assert signed(folder, f"{NOW_MS}.snapshot.json")["version"] == NOW_MS


def test_an_idle_poll_changes_nothing_until_a_quarter_of_the_time_is_over(folder: LogonFolder) -> None:
    clock = Clock()
    leases = Leases(folder, LEASE, clock)
    publish(folder, b"{}", NOW_MS)
    first = leases.ensure(ID)
    settle(folder)
    for later in (1, 1000, QUARTER_MS - 1):
        clock.ms = NOW_MS + later
        assert leases.ensure(ID) == first
        assert Leases(folder, LEASE, clock).ensure(ID) == first  # another worker, or after a restart
    clock.ms = NOW_MS + QUARTER_MS
    assert leases.ensure(ID) == f'"{clock.ms:x}"'
    assert signed(folder, "timestamp.json")["version"] == clock.ms


def test_new_instructions_get_a_new_lease_at_once(folder: LogonFolder) -> None:
    clock = Clock()
    leases = Leases(folder, LEASE, clock)
    publish(folder, b"{}", NOW_MS)
    leases.ensure(ID)
    settle(folder)
    leases.ensure(ID)
    clock.ms += 5000
    publish(folder, b"{new}", clock.ms)
    assert leases.ensure(ID) == f'"{clock.ms:x}"'
    meta = signed(folder, f"{clock.ms}.snapshot.json")["meta"]
    assert isinstance(meta, dict)
    assert meta["targets.json"]["version"] == clock.ms


def test_versions_rise_even_if_the_clock_does_not(folder: LogonFolder) -> None:
    leases = Leases(folder, LEASE, Clock())
    publish(folder, b"{}", NOW_MS)
    leases.ensure(ID)
    publish(folder, b"{new}", NOW_MS + 1)
    assert leases.ensure(ID) == f'"{NOW_MS + 1:x}"'
    publish(folder, b"{newer}", NOW_MS + 2)
    assert leases.ensure(ID) == f'"{NOW_MS + 2:x}"'


def test_a_lease_on_older_targets_is_not_relied_on_while_newer_ones_are_being_written(folder: LogonFolder) -> None:
    """Their last byte changes nothing of the folder's own time."""
    publish(folder, b"{}", NOW_MS)
    newer = sign_instructions(ID, b'{"new":1}', POLICY, NOW_MS + 5)
    whole = newer.files()
    name = f"clients/{ID}/{NOW_MS + 5}.targets.json"
    folder.write({**whole, name: whole[name][:100]})
    os.utime(folder.root / "clients" / ID, ns=(1, 1))  # long ago
    leases = Leases(folder, LEASE, Clock())
    assert leases.ensure(ID) == f'"{NOW_MS:x}"'
    (folder.root / name).write_bytes(whole[name])
    os.utime(folder.root / "clients" / ID, ns=(1, 1))
    assert leases.ensure(ID) == f'"{NOW_MS + 1:x}"'


def test_another_servers_lease_is_replaced_by_our_own(folder: LogonFolder) -> None:
    instructions = sign_instructions(ID, b"{}", POLICY, NOW_MS)
    folder.write(
        {**instructions.files(), **sign_lease(instructions.targets, CryptoSigner.generate_ed25519(), NOW_MS).files(ID)}
    )
    assert Leases(folder, LEASE, Clock()).ensure(ID) == f'"{NOW_MS + 1:x}"'


@pytest.mark.parametrize("signer", [LEASE, CryptoSigner.generate_ed25519()], ids=["own key", "another's"])
def test_a_lease_from_the_future_does_not_decide_the_next_version(folder: LogonFolder, signer: CryptoSigner) -> None:
    """Left there by whoever had the folder, it would make every lease after it one that no client takes."""
    publish(folder, b"{}", NOW_MS)
    newest = folder.newest_targets(ID)
    assert newest is not None
    folder.write(sign_lease(newest[1], signer, 2**47).files(ID))
    assert Leases(folder, LEASE, Clock()).ensure(ID) == f'"{NOW_MS:x}"'


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"signed":{}}', b'{"signed":{"version":"x"},"signatures":[{}]}']
)
def test_a_damaged_lease_is_signed_again(folder: LogonFolder, damage: bytes) -> None:
    clock = Clock()
    publish(folder, b"{}", NOW_MS)
    Leases(folder, LEASE, clock).ensure(ID)
    folder.write({f"clients/{ID}/timestamp.json": damage})
    clock.ms += 1
    assert Leases(folder, LEASE, clock).ensure(ID) == f'"{clock.ms:x}"'


def test_instructions_are_published_with_their_lease(folder: LogonFolder) -> None:
    clock = Clock()
    leases = Leases(folder, LEASE, clock)
    for body in (b"{}", b"{new}"):  # the clock stands still, versions rise all the same
        instructions = sign_instructions(ID, body, POLICY, clock.ms)
        leases.publish(instructions)
    assert signed(folder, "timestamp.json")["version"] == NOW_MS + 1
    meta = signed(folder, f"{NOW_MS + 1}.snapshot.json")["meta"]
    assert isinstance(meta, dict)
    assert meta["targets.json"]["version"] == instructions.version
    assert leases.ensure(ID) == f'"{NOW_MS + 1:x}"', "the next poll has nothing to sign"


def test_half_a_file_is_written_whole_before_anything_names_it(folder: LogonFolder) -> None:
    instructions = sign_instructions(ID, b"{whole}", POLICY, NOW_MS)
    lease = sign_lease(instructions.targets, LEASE, NOW_MS)
    files = {**instructions.files(), **lease.files(ID)}
    for name, content in files.items():
        (folder.root / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.root / name).write_bytes(content[: len(content) // 2])
    Leases(folder, LEASE, Clock()).publish(instructions)
    body, targets, *_ = files
    assert (folder.read(body), folder.read(targets)) == (b"{whole}", instructions.targets)
    assert signed(folder, f"{NOW_MS}.snapshot.json")["version"] == signed(folder, "timestamp.json")["version"]


def test_what_is_there_whole_is_never_seen_shorter(folder: LogonFolder) -> None:
    """The same file may be published again while clients read it: it is replaced, not written over."""
    instructions = sign_instructions(ID, b"{whole}", POLICY, NOW_MS)
    folder.write(instructions.files())
    [body, _] = instructions.files()
    with (folder.root / body).open("rb") as reader:
        folder.write({body: b"{other}"})
        assert reader.read() == b"{whole}"
    assert folder.read(body) == b"{other}"
