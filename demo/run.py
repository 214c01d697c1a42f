"""`make demo`: one package command from the administrator to a secured folder, and then a stolen server.

Everything is real: the site is served over HTTP on loopback, the software is Debian's, its setup program is dpkg, the client is a
throw-away computer (`demo.computer`) on which the service runs as root with nobody logged on. Each claim is checked; the exit
code is 0 only if all of them hold. The machine is left as it was.
"""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from demo import debian
from demo.cast import Client, Site
from demo.computer import NOBODY, Computer
from demo.telling import act, broken, held, missing, say, shown
from demo.theft import Attack, Thief


class Claims:
    """Counts what held and what did not."""

    def __init__(self) -> None:
        self.broken = 0

    def check(self, holds: bool, text: str, evidence: str = "") -> None:
        """Show whether a claim holds, with the evidence if it does not."""
        if holds:
            held(text)
        else:
            self.broken += 1
            broken(text)
            shown(evidence)


def main() -> int:
    """Play both acts. Returns the exit code."""
    say("Looking for real software: two packages of this Debian release, fetched with apt.")
    debs = debian.fetch(["tree", "hello"])
    shown("  ".join(deb.name for deb in debs.values()))
    with tempfile.TemporaryDirectory(prefix="pcm-demo-") as folder, contextlib.ExitStack() as stack:
        claims = Claims()
        computer = Computer(Path(folder))
        stack.callback(computer.close)
        site = stack.enter_context(_site(Path(folder)))
        client = Client(computer, site)
        first_act(site, client, debs["tree"], claims)
        second_act(site, client, debs["hello"], Path(folder), claims)
    return _verdict(claims)


def first_act(site: Site, client: Client, deb: Path, claims: Claims) -> None:
    """From a package directory to software in a folder that users cannot write to."""
    act("Act one: one package command")
    say("The packager puts Debian's tree into a package directory, with the exact command lines in package.yaml.")
    directory = site.package_directory("tree", deb, client.computer)
    shown((directory / "package.yaml").read_text())
    say("The packager signs it on their own machine, with a key that no server holds, and publishes it.")
    site.publish(directory)
    say(
        "A new computer, thrown away at the end, is enrolled with a one-time token. Its key pair is made there and never "
        "leaves it."
    )
    client.enrol()
    say("The administrator orders a job for all clients.")
    job = site.order("tree")
    say(
        "On the client the service looks for instructions. Nobody is logged on."
        + (" It runs as root." if client.computer.is_root else "")
    )
    client.check()
    tree = client.installed_file("usr/bin/tree")
    listing = client.computer.run(["ls", "-l", tree])
    shown(listing.stdout)
    claims.check(listing.returncode == 0, f"{tree} is there", listing.stderr)
    if client.computer.is_root:
        claims.check(" root root " in listing.stdout, "it belongs to root", listing.stdout)
    _show_that_users_cannot_write(client, tree, claims)
    say("The administrator sees the result.")
    claims.check("succeeded" in site.pcm("job", "show", job), "pcm job show says: succeeded")
    say("The person at the computer sees it too, without any rights; and anyone may ask why.")
    with client.service_running():
        listed = client.pcmapp("list")
    claims.check("tree" in listed and "done" in listed, "pcmapp list shows it to an ordinary user", listed)
    why = client.pcmsvc("why", job)
    claims.check("succeeded" in why.lower(), "pcmsvc why explains it", why)


def second_act(site: Site, client: Client, deb: Path, folder: Path, claims: Claims) -> None:
    """Full control of the logon and distribution servers' folders, and still nothing runs."""
    act("Act two: the stolen server")
    say("Somebody now owns both servers: every file that clients read. They keep a copy of yesterday's files.")
    thief = Thief(site, folder / "loot")
    thief.keep_copy()
    say("Meanwhile hello is published, and ordered for another computer only.")
    directory = site.package_directory("hello", deb, client.computer)
    site.publish(directory)
    site.group("others", site.enrol_another())
    site.order("hello", group="others")
    suffered = [_suffer(thief, attack, client, claims) for attack in thief.attacks_on_instructions(client)]
    say("Then hello is ordered for all. The thief acts before the client's next check.")
    job = site.order("hello")
    suffered += [_suffer(thief, attack, client, claims) for attack in thief.attacks_on_packages()]
    say("The administrator sees every refusal.")
    seen = site.pcm("client", "show", client.client_id)
    for code in suffered:
        claims.check(code in seen, f"pcm client show names {code}", seen)
    say("The honest files are back, and the order is carried out as if nothing had happened.")
    client.check()
    hello = client.computer.run([client.installed_file("usr/bin/hello")])
    claims.check(hello.returncode == 0, f"hello says: {hello.stdout.strip()}", hello.stderr)
    claims.check("succeeded" in site.pcm("job", "show", job), "pcm job show says: succeeded")


def _suffer(thief: Thief, attack: Attack, client: Client, claims: Claims) -> str:
    """One attack, one check by the client; then the honest files are put back. Returns the code that was due."""
    say(attack.story)
    attack.strike()
    output = client.check(expect=None)
    claims.check(attack.code in output, f"refused: {attack.code}", output)
    there = client.computer.run(["ls", client.installed_file("usr/bin/hello")]).returncode == 0
    claims.check(not there, "nothing ran")
    thief.undo()
    return attack.code


def _show_that_users_cannot_write(client: Client, path: str, claims: Claims) -> None:
    if not client.computer.is_root:
        missing("a folder of root's, and an ordinary user's attempt to write there, need a second account and so root")
        return
    for attempt in (["touch", path], ["rm", "-f", path], ["touch", str(Path(path).with_name("intruder"))]):
        tried = client.computer.run(attempt, user=NOBODY)
        claims.check(
            tried.returncode != 0,
            f"as nobody: {' '.join(attempt)}: {tried.stderr.strip().rpartition(': ')[2]}",
            "it worked",
        )


@contextlib.contextmanager
def _site(folder: Path) -> Iterator[Site]:
    site = Site(folder)
    say("A site is made: keys, two pinned roots, a database, folders; then it is served over HTTP on loopback.")
    site.initialise()
    site.serve()
    try:
        yield site
    finally:
        site.stop()


def _verdict(claims: Claims) -> int:
    act("The end")
    if claims.broken:
        broken(f"{claims.broken} claims do not hold")
        return 1
    held("every claim was checked and holds; the throw-away computer and the site are gone")
    return 0


if __name__ == "__main__":
    if shutil.which("dpkg") is None:
        sys.exit("The demonstration installs Debian packages and needs dpkg.")
    sys.exit(main())
