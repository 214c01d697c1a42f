"""A site's admin API in the shape that publishing needs, and this machine's keys and memory beside it.

Serves step 2: `pcm package publish` and `withdraw` hand it to `distribution.publication`, which does the work.
"""

import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

from securesystemslib.signer import Signer

from pcm.cli.api import Api, segment
from pcm.cli.contexts import SiteContext, state_folder
from pcm.cli.show import say
from pcm.content.objects import PIECE
from pcm.distribution.packager_memory import PackagerMemory
from pcm.distribution.publication import Packager
from pcm.distribution.publish import Started
from pcm.model.errors import RequestError, TransferError
from pcm.protocol.admin import KeysStatus, SiteStatus
from pcm.protocol.admin_packages import (
    ObjectsAnswer,
    ObjectsQuestion,
    ObjectsStored,
    ObjectStored,
    PackageDetail,
    Publication,
    PublicationAnswer,
    TeamView,
    UploadState,
)
from pcm.trust import ceremony, roots
from pcm.trust.keyring import Keyring
from pcm.trust.keys import key_name

PINNED = "pinned/packages.root.json"  # a folder of its own: beside the keys it would pass for one
_QUESTION = 10_000
_COUNT = re.compile(r"\.[0-9]+$")


class ApiSite:
    """A `PublishingSite` over the admin API."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def lacking(self, names: Collection[str]) -> set[str]:
        """See `Uploader.lacking`."""
        listed, missing = sorted(names), set[str]()
        for start in range(0, len(listed), _QUESTION):
            question = ObjectsQuestion(tuple(listed[start : start + _QUESTION]))
            missing |= set(self._api.post("/objects/missing", question, ObjectsAnswer).missing)
        return missing

    def started(self, sha256: str) -> Started:
        """See `Uploader.started`."""
        state = self._api.get(f"/objects/{sha256}/upload", UploadState)
        return Started(state.received, state.tail_sha256)

    def upload_small(self, objects: Sequence[tuple[str, bytes]]) -> None:
        """See `Uploader.upload_small`."""
        pieces: list[bytes] = []
        for sha256, packed in objects:
            pieces += (bytes.fromhex(sha256) + len(packed).to_bytes(8, "big"), packed)
        body = b"".join(pieces)
        answer = self._api.send("/objects", (body,), ObjectsStored)
        if answer.objects != len(objects):
            raise TransferError(f"The site stored {answer.objects} of {len(objects)} objects.", code="transfer.damaged")

    def upload(self, sha256: str, length: int, packed: Iterable[bytes], offset: int = 0) -> None:
        """See `Uploader.upload`."""
        where = {"offset": offset, "length": length} if offset else {}
        stored = self._api.upload(f"/objects/{sha256}", packed, ObjectStored, **where)
        if (stored.sha256, stored.length) != (sha256, length):
            raise TransferError(f"The site stored another object than {sha256}.", code="transfer.damaged")

    def team(self, team: str) -> TeamView:
        """See `PublishingSite.team`."""
        return self._api.get(f"/teams/{segment(team)}", TeamView)

    def newest_release(self, package: str) -> int:
        """See `PublishingSite.newest_release`."""
        try:
            detail = self._api.get(f"/packages/{segment(package)}", PackageDetail)
        except RequestError as error:
            if error.code == "not_found":
                return 0
            raise
        return max((version.release for version in detail.versions), default=0)

    def publish(self, publication: Publication) -> PublicationAnswer:
        """See `PublishingSite.publish`."""
        return self._api.post("/publications", publication, PublicationAnswer)


def packager(api: Api, found: SiteContext, team: str | None, keyring: Keyring, root_file: str | None) -> Packager:
    """Everything that publishing needs, from what the packager gave.

    Raises:
        RequestError: `usage`: which team? `not_found`: no pinned root there; `request.metadata`: it is none.
    """
    status = api.get("/site", SiteStatus)
    memory = PackagerMemory(state_folder() / "sites" / status.name)
    pinned = _pinned_root(api, found, keyring, root_file, memory)
    site_name = str(roots.mark_of(ceremony.load_root(pinned).signed).get("site", status.name))

    def signers_for(keyids: frozenset[str]) -> Sequence[Signer]:
        return keyring.signers_for(keyids)

    return Packager(
        site_name=site_name,
        team=team or only_team(keyring),
        site=ApiSite(api),
        pinned_root=pinned,
        memory=memory,
        fetch=distribution_files(api, status),
        signers_for=signers_for,
        now_s=time.time(),
    )


def only_team(keyring: Keyring) -> str:
    """The team whose key is in the keyring, if there is just one. `team-main.2` is the second key of team main.

    Raises:
        RequestError: `usage`.
    """
    names = [name.removeprefix("team-") for name in keyring.names() if name.startswith("team-")]
    teams = sorted({_COUNT.sub("", name) for name in names})
    if not keyring.folder.is_dir():
        raise RequestError(f"There is no key folder {keyring.folder}.", code="not_found")
    if len(teams) != 1:
        found = f"it has keys of {', '.join(teams)}" if teams else "it has no team's key"
        raise RequestError(f"For which team? Give --team; {keyring.folder}: {found}.", code="usage")
    return teams[0]


def _pinned_root(
    api: Api, found: SiteContext, keyring: Keyring, root_file: str | None, memory: PackagerMemory
) -> bytes:
    beside = keyring.folder / PINNED
    given = root_file or found.packages_root or (str(beside) if beside.is_file() else None)
    if given is not None:
        try:
            return Path(given).read_bytes()
        except OSError as error:
            raise RequestError(f"The root {given} cannot be read: {error.strerror}.", code="not_found") from None
    pinned = memory.pinned_root()
    if pinned is not None:
        return pinned
    offered = api.get("/keys", KeysStatus).packages_root
    root = ceremony.load_root(offered).signed
    names = ", ".join(f"{key_name(root.keys[keyid])} {keyid[:12]}" for keyid in root.roles["root"].keyids)
    say(
        f"This machine meets the site for the first time and pins its package root {root.version} (root keys: {names}). "
        "Compare with whoever keeps the keys."
    )
    memory.pin_root(offered)
    return offered


def distribution_files(api: Api, status: SiteStatus) -> Callable[[str, int], Iterator[bytes]]:
    """Reads public files of the site's first distribution server, over HTTP or from its folder on this machine.

    Shares are left to clients: their account is a client's.
    """
    named = [server.location for server in status.servers if server.kind == "distribution"]
    locations = [location for location in named if not location.startswith("smb:")]
    if not locations:
        what = (
            "no distribution server but shares; publishing needs one over https too"
            if named
            else "no distribution server"
        )
        raise RequestError(f"The site names {what}.", code="not_found")
    location = locations[0].rstrip("/")

    def over_http(name: str, most: int) -> Iterator[bytes]:
        base = f"{api.url}{location}" if location.startswith("/") and not Path(location).is_dir() else location
        return api.fetch(f"{base}/{name}", most)

    def from_folder(name: str, _most: int) -> Iterator[bytes]:
        try:
            with Path(location, name).open("rb") as file:
                while piece := file.read(PIECE):
                    yield piece
        except FileNotFoundError:
            raise TransferError(f"{location} has no {name}.", code="transfer.not_found") from None
        except OSError as error:
            raise TransferError(
                f"{location}/{name} cannot be read: {error.strerror}.", code="transfer.failed"
            ) from None

    return from_folder if "://" not in location and Path(location).is_dir() else over_http
