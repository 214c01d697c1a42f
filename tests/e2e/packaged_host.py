"""A booted host to which the client comes as its users get it: as a package or a setup file, with nothing lent from outside."""

import json
import shutil
import subprocess
from pathlib import Path

from tests.e2e.booted_host import BootedHost
from tests.e2e.hosts import PROOF, Answer, Client, Site

KIT = "/root/kit.json"
CURRENT = "/opt/pcm/current"


class PackagedClient(Client):
    """A host on which nothing is installed yet. Commands are found as people find them."""

    def __init__(self, host: BootedHost, site: Site) -> None:
        self.host = host
        self._site = site
        site.pcm("client", "kit", "--out", str(host.path(KIT)))
        host.shell(f"useradd --create-home alice; mkdir --mode=755 {PROOF}")
        # another host's gateway, where the site may listen, is an address of this machine as well
        route = ["ip", "-n", host.name, "route", "add", "default", "via", str(host.gateway)]
        subprocess.run(route, check=True, capture_output=True)

    def bring(self, file: Path, name: str = "") -> str:
        """Copy a file to the host; its path there."""
        inside = f"/root/{name or file.name}"
        shutil.copy(file, self.host.path(inside))
        return inside

    def type(self, *command: str, words: str | None = None) -> Answer:
        """Type a command as root, whatever comes of it."""
        return self.host.run(*command, check=False, words=words, timeout=180)

    def pcmsvc(self, *arguments: str, check: bool = True) -> Answer:
        """Type a `pcmsvc` command as root."""
        return self.host.run("/usr/bin/pcmsvc", *arguments, check=check, timeout=180)

    def pcmapp(self, *arguments: str) -> str:
        """Type a `pcmapp` command as an ordinary user."""
        return self.host.run("/usr/bin/pcmapp", *arguments, user="alice").stdout

    def requirements(self) -> dict[str, dict[str, object]]:
        """What `pcmsvc check` says, by name."""
        said = json.loads(self.pcmsvc("check", "--json", check=False).stdout)
        return {each["name"]: each for each in said["requirements"]}

    def unmet(self) -> set[str]:
        """Names of what does not hold; each has a remedy."""
        unmet = {name: each for name, each in self.requirements().items() if not each["holds"]}
        assert all(each.get("remedy") and each["message"] for each in unmet.values()), unmet
        return set(unmet)

    def client_id(self) -> str:
        """Who this computer is to its site."""
        return str(json.loads(self.pcmsvc("status", "--json").stdout)["client_id"])

    def version(self) -> str:
        """The version in use."""
        return self.host.shell(f"readlink {CURRENT}").strip().removeprefix("versions/")

    def mess(self) -> list[str]:
        """Whatever an installation may have left where nothing belongs."""
        found = self.host.shell(
            "ls -A /opt/pcm /tmp /var/tmp /root 2>/dev/null | grep -E '^\\.(setup|new|current)|pcm-' || :"
        )
        return found.split()
