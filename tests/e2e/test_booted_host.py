"""The test hosts themselves: what other end-to-end tests take for granted about them."""

import http.server
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.booted_host import ROOT, BootedHost, BootError, cable_of

pytestmark = pytest.mark.needs("nspawn")

BootHost = Callable[[], BootedHost]


def test_systemd_runs_a_transient_service_with_its_hardening(boot_host: BootHost) -> None:
    host = boot_host()

    assert host.run("cat", "/proc/1/comm").stdout == "systemd\n"
    assert host.run("cat", words="in and out").stdout == "in and out"
    assert (
        host.run("sh", "-c", "echo $COLOUR; id -u", environment={"COLOUR": "red"}, user="nobody").stdout
        == "red\n65534\n"
    )
    refused = host.run("touch", "/usr/mine", properties=["ProtectSystem=strict"], check=False)
    assert refused.returncode == 1
    assert "Read-only file system" in refused.stderr


def test_a_failing_command_is_told_with_its_output(boot_host: BootHost) -> None:
    host = boot_host()

    with pytest.raises(AssertionError, match=r"(?s)returned 7 .*the reason"):
        host.run("sh", "-c", "echo the reason; exit 7")


def test_the_disk_survives_power_loss_and_reboot_but_processes_do_not(boot_host: BootHost, nspawn_base: Path) -> None:
    host = boot_host()
    host.shell("echo kept >/var/lib/proof; systemd-run --quiet --unit=sleeper sleep 1000")
    machine = host.path("/etc/machine-id").read_text()
    first = host.leader

    host.kill_power()
    with pytest.raises(BootError, match="not running"):
        host.run("true")
    assert not Path(f"/proc/{first}").exists()
    host.boot()

    assert host.path("/var/lib/proof").read_text() == "kept\n"
    assert host.run("systemctl", "is-active", "sleeper", check=False).stdout == "inactive\n"
    host.reboot()
    assert host.shell("cat /var/lib/proof /etc/machine-id") == f"kept\n{machine}"
    assert len(machine) == 33
    assert not (nspawn_base / "var/lib/proof").exists()


def test_hosts_share_nothing(boot_host: BootHost) -> None:
    first, second = boot_host(), boot_host()

    first.shell("touch /var/lib/mine; systemd-run --quiet --unit=mine sleep 1000")

    assert not second.path("/var/lib/mine").exists()
    assert second.run("systemctl", "is-active", "mine", check=False).stdout == "inactive\n"
    assert first.address != second.address


def test_a_host_reaches_a_server_of_the_test(boot_host: BootHost) -> None:
    host = boot_host()
    server = http.server.ThreadingHTTPServer((str(host.gateway), 0), http.server.SimpleHTTPRequestHandler)
    thread = threading.Thread(target=server.handle_request)
    thread.start()

    code = f"import urllib.request as u; print(u.urlopen('http://{host.gateway}:{server.server_port}/').status)"
    assert host.python("-c", code).stdout == "200\n"
    thread.join()
    server.server_close()


def test_this_project_runs_on_debians_own_python(boot_host: BootHost) -> None:
    host = boot_host()

    code = "import pcm, cryptography.hazmat.bindings._rust, msgspec, tuf, zstandard; print(pcm.__file__)"
    assert host.python("-c", code).stdout == "/opt/pcm/src/pcm/__init__.py\n"
    assert host.run("touch", "/opt/pcm/src/mine", check=False).returncode == 1


def mounted_for(name: str) -> list[str]:
    """Mounts with this very name in their path: other hosts may be up, and theirs begins alike."""
    return [line for line in Path("/proc/mounts").read_text().splitlines() if name in line.split()[1].split("/")]


def test_closing_leaves_no_trace(nspawn_base: Path) -> None:
    with BootedHost(nspawn_base) as host:
        host.boot()
        name, leader = host.name, host.leader
        assert mounted_for(name)

    assert not mounted_for(name)
    assert not Path(f"/run/netns/{name}").exists()
    assert not Path(f"/proc/{leader}").exists()
    assert not list(Path("/sys/fs/cgroup").glob(f"*/{name}"))
    assert not Path(f"/sys/class/net/{cable_of(name)}").exists()


def test_a_host_ends_with_the_tests_that_booted_it(nspawn_base: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tests.e2e.booted_host import BootedHost; "
        "host = BootedHost(Path(sys.argv[1])); host.boot(); print(host.leader, flush=True); time.sleep(100)"
    )
    tests = subprocess.Popen([sys.executable, "-c", code, nspawn_base], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert tests.stdout
    with tests.stdout:
        leader = int(tests.stdout.readline())
    assert Path(f"/proc/{leader}").exists()

    tests.kill()
    tests.wait()

    deadline = time.monotonic() + 10
    while Path(f"/proc/{leader}").exists():
        assert time.monotonic() < deadline, "the host outlives its tests"
        time.sleep(0.05)
    BootedHost(nspawn_base).close()  # takes the same number, and with it away what was left
