"""Large packages over a real connection: killed on either side they go on, and the site's verbs about content."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from pcm.content.package_directory import scan
from tests.integration.cli.conftest import Pcm, ServedSite, serve
from tests.integration.cli.test_publishing import publish, write_package

LARGE = 96 * 2**20


def received(served: ServedSite) -> int:
    return max((part.stat().st_size for part in (served.folder / "distribution" / "uploads").glob("*.part")), default=0)


def test_kill_9_of_the_packagers_program_costs_what_was_on_its_way(
    pcm: Pcm, served: ServedSite, tmp_path: Path
) -> None:
    folder = write_package(tmp_path / "p", "large", "1.0")
    with (folder / "data" / "large.bin").open("wb") as file:
        for seed in range(LARGE // 2**20):
            file.write(Random(seed).randbytes(2**20))
    command = [
        sys.executable, "-m", "pcm.cli.main", "--site", str(served.folder), "package", "publish", str(folder),
        "--keys", str(served.keys), "--passphrase-file", str(served.passphrase_file),
    ]  # fmt: skip
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while received(served) < 8 * 2**20 and time.monotonic() < deadline:
        time.sleep(0.005)
    child.kill()
    child.wait()
    time.sleep(0.5)
    left = received(served)
    assert left >= 8 * 2**20, "it was killed too early, or too late"
    code, out, err = publish(pcm, served, folder, "--json")
    assert code == 0, err
    events = [json.loads(line) for line in err.splitlines() if line.startswith('{"event"')]
    assert {event["step"] for event in events} == {"reading", "uploading"}
    assert events[-1]["done"] == events[-1]["total"]
    assert received(served) == 0
    assert json.loads(out)["published"]
    shown = json.loads(pcm("package", "show", "large", "1.0", "--json").out)
    assert [(each["server"], each["state"]) for each in shown["deliveries"]] == [("site", "complete")]


def test_content_is_counted_checked_and_cleaned_up(
    pcm: Pcm, served: ServedSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_package(tmp_path / "p", "counted", "1.0")
    assert publish(pcm, served, folder)[0] == 0
    stats = json.loads(pcm("content", "stats", "--json").out)
    assert stats["files"] >= 2
    assert stats["packed"] < stats["plain"]
    assert pcm("content", "verify").code == 0
    [file] = [each for each in scan(folder) if each.path == "data/big.bin"]
    packed = served.folder / "distribution" / "objects" / file.sha256[:2] / f"{file.sha256}.zst"
    packed.write_bytes(b"damaged")
    for width in ("40", "80", "200"):
        monkeypatch.setenv("COLUMNS", width)
        told = pcm("content", "verify")
        assert told.code == 1
        assert f"home  objects/{file.sha256[:2]}/{file.sha256}.zst\n" in told.out, "it can be copied from any terminal"
    assert pcm("content", "verify", "--repair").code == 1  # nobody else has it: it is taken away
    assert not packed.exists()
    again = write_package(tmp_path / "again", "counted", "1.1")
    assert publish(pcm, served, again)[0] == 0  # and any publication that has it brings it back
    assert packed.exists()
    assert pcm("content", "verify").code == 0
    left = served.folder / "distribution" / "objects" / "ab" / f"{'ab' * 32}.zst"
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"left behind")
    os.utime(left, (time.time() - 90_000,) * 2)
    assert json.loads(pcm("content", "gc", "--dry-run", "--json").out)["cleared"][0]["removed"] == 1
    assert left.exists()
    assert pcm("content", "gc", "--grace", "0.5", "--yes").code == 1
    assert pcm("content", "gc", "--yes").code == 0
    assert not left.exists()
    assert packed.exists()


def test_servers_are_shown_and_copied(pcm: Pcm, served: ServedSite, tmp_path: Path) -> None:
    assert publish(pcm, served, write_package(tmp_path / "p", "copied", "1.0"))[0] == 0
    [server] = json.loads(pcm("distribution", "list", "--json").out)
    assert (server["name"], server["state"], server["home"]) == ("site", "in_step", True)
    assert "content comes in here" in pcm("distribution", "show", "site").out
    assert pcm("distribution", "show", "nowhere").code == 3
    assert pcm("distribution", "retry", "site").code == 0
    copied = pcm("distribution", "mirror", f"{served.url}/distribution", tmp_path / "stick")
    assert copied.code == 0, copied.err
    assert "is in step" in copied.out
    assert (tmp_path / "stick" / "metadata" / "timestamp.json").is_file()
    assert "no limit of rate" in pcm("status").out


def test_kill_9_of_the_site_in_the_middle_of_an_upload_loses_nothing_either(
    pcm: Pcm, served: ServedSite, tmp_path: Path
) -> None:
    folder = write_package(tmp_path / "p", "survivor", "1.0")
    (folder / "data" / "large.bin").write_bytes(Random(7).randbytes(LARGE))
    command = [
        sys.executable, "-m", "pcm.cli.main", "--site", str(served.folder), "package", "publish", str(folder),
        "--keys", str(served.keys), "--passphrase-file", str(served.passphrase_file),
    ]  # fmt: skip
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while received(served) < 8 * 2**20 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(served.process.pid, signal.SIGKILL)
    served.process.communicate()
    assert child.wait(60) != 0
    left = received(served)
    assert left >= 8 * 2**20
    served.process = serve(served.folder, served.url)
    assert publish(pcm, served, folder)[0] == 0
    assert pcm("content", "verify").code == 0
