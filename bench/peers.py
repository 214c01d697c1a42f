"""Other products that keep computers in order, to be measured beside ours: where they live and how each is called.

They stand in a small Debian of their own in a cache (`~/.cache/pcm-bench`, or `PCM_BENCH_CACHE`), made once by mmdebstrap as
root, so that nothing is installed on this machine: Puppet, CFEngine and Ansible from Debian, Salt from the Python package index.
None of them asks a server for anything here: each is given its work in a local file, which is the cheapest way it has.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

SUITE = "bookworm"
DEBIAN = ("puppet-agent", "cfengine3", "ansible-core", "python3-venv", "ca-certificates")
SALT = "salt==3007.15"
SIZES = (10, 100)
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_MOUNTS = ("proc", "sys", "dev")


@dataclass(frozen=True)
class Peers:
    """The peers' Debian, ready to run them."""

    root: Path

    def inside(self, *argv: str) -> list[str]:
        """A command inside, in a bare environment."""
        return ["chroot", str(self.root), "env", "-i", f"PATH={_PATH}", "HOME=/root", "LC_ALL=C.UTF-8", *argv]

    def salt(self, *argv: str) -> list[str]:
        """`salt-call --local`."""
        return self.inside("/opt/salt/bin/python", "/opt/salt/bin/salt-call", "--local", *argv)

    def idle(self) -> dict[str, list[str]]:
        """What each runs to find that nothing is to be done."""
        return {
            "salt-call --local": self.salt("test.ping"),
            "puppet apply": self.inside("puppet", "apply", "-e", ""),
            "cf-agent": self.inside("cf-agent", "-K", "-f", "/srv/0.cf"),
        }

    def programs(self, size: int) -> dict[str, list[str]]:
        """What each runs to have `/bin/true` run so many times, with a result for each."""
        work = {
            "salt-call --local": self.salt("state.apply", f"run{size}"),
            "puppet apply": self.inside("puppet", "apply", f"/srv/{size}.pp"),
            "cf-agent": self.inside("cf-agent", "-K", "-f", f"/srv/{size}.cf"),
        }
        if size <= 10:  # a hundred take a quarter of a minute
            work["ansible-playbook"] = self.inside("ansible-playbook", "-i", "localhost,", f"/srv/{size}.yml")
        return work

    def residents(self) -> dict[str, list[str]]:
        """What each leaves running on a client, in the foreground, with a server that does not answer."""
        return {
            "salt-minion": self.inside("/opt/salt/bin/python", "/opt/salt/bin/salt-minion", "-l", "quiet"),
            "puppet agent": self.inside("puppet", "agent", "--no-daemonize", "--server", "127.0.0.1"),
            "cf-execd": self.inside("cf-execd", "--no-fork"),
        }


@contextmanager
def peers() -> Iterator[Peers | None]:
    """The peers, or None without the rights or tools to make them; then the reason is printed."""
    missing = [tool for tool in ("mmdebstrap", "chroot", "mount") if shutil.which(tool) is None]
    if os.geteuid() != 0 or missing:
        print(
            f"No peers beside: {'they need root' if not missing else f'{missing[0]} is not installed'}.",
            file=sys.stderr,
        )
        yield None
        return
    root = _made()
    with ExitStack() as after:
        for name in _MOUNTS:
            place = str(root / name)
            _do("mount", "--rbind", f"/{name}", place)
            _do("mount", "--make-rslave", place)
            after.callback(_do, "umount", "--recursive", "--lazy", place)
        yield Peers(root)


def _made() -> Path:
    cache = Path(os.environ.get("PCM_BENCH_CACHE", "~/.cache/pcm-bench")).expanduser()
    recipe = repr((SUITE, DEBIAN, SALT, SIZES, "v1"))
    place = cache / f"peers-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if place.is_dir():
        return place
    print(f"Making a Debian with the peers in {place}, once (about two minutes) ...", file=sys.stderr, flush=True)
    unfinished = place.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True, mode=0o755)
    _do("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(DEBIAN)}", SUITE, str(unfinished))
    _do("chroot", str(unfinished), "python3", "-m", "venv", "/opt/salt")
    interpreter = unfinished / "opt/salt/bin/python"
    _do(sys.executable, "-m", "pip", "--quiet", "--python", str(interpreter), "install", "--no-compile", SALT)
    _write_work(unfinished)
    unfinished.rename(place)
    return place


def _write_work(root: Path) -> None:
    """The same work in each peer's own words."""
    for folder in ("srv/salt", "etc/salt"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "etc/salt/minion").write_text("master: 127.0.0.1\nid: bench\n")
    (root / "srv/0.cf").write_text("bundle agent main\n{\n}\n")
    for size in SIZES:
        each = range(size)
        states = "".join(f"true-{number}:\n  cmd.run:\n    - name: /bin/true\n" for number in each)
        (root / f"srv/salt/run{size}.sls").write_text(states)
        head = "- hosts: localhost\n  connection: local\n  gather_facts: false\n  tasks:\n"
        (root / f"srv/{size}.yml").write_text(head + "    - command: /bin/true\n" * size)
        (root / f"srv/{size}.pp").write_text(
            "".join(f"exec {{ 'true-{at}': command => '/bin/true' }}\n" for at in each)
        )
        promises = "".join(f'  "/bin/true #{number}";\n' for number in each)
        (root / f"srv/{size}.cf").write_text(f"bundle agent main\n{{\n commands:\n{promises}}}\n")


def _do(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)} ended with {done.returncode}: {done.stderr or done.stdout}")
