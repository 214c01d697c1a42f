"""Both repositories, as plain folders, read by tuf's own client and nothing of ours: the format is TUF's, to the letter."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

import pytest
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater

from pcm.protocol.instructions import instructions_target
from pcm.protocol.manifest import write_manifest
from tests.unit.trust.simulated import ME, SimulatedSite, a_manifest


class FolderFetcher(FetcherInterface):
    """What any static server does."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = Path(urlparse(url).path)
        if not path.is_file():
            raise DownloadHTTPError("missing", 404)
        yield path.read_bytes()


@pytest.fixture
def site() -> SimulatedSite:
    site = SimulatedSite()
    site.publish_manifest(a_manifest())
    site.instruct()
    return site


def write(files: dict[str, bytes], folder: Path) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_the_package_repository_is_plain_tuf(site: SimulatedSite, tmp_path: Path) -> None:
    served = write(site.distribution, tmp_path / "distribution")
    (tmp_path / "targets").mkdir()
    updater = Updater(
        str(tmp_path / "metadata"),
        f"file://{served}/metadata/",
        str(tmp_path / "targets"),
        f"file://{served}/targets/",
        FolderFetcher(),
        bootstrap=site.package_roots[0],
    )
    info = updater.get_targetinfo("packages/apps/viewer/1.0/manifest.json")
    assert info is not None
    assert Path(updater.download_target(info)).read_bytes() == write_manifest(a_manifest())
    assert updater.get_targetinfo("packages/games/viewer/1.0/manifest.json") is None


def test_an_instruction_repository_is_plain_tuf(site: SimulatedSite, tmp_path: Path) -> None:
    served = write(site.logon, tmp_path / "logon")
    # tuf's client wants roots and roles in one folder; a static server may offer them so
    for root in (served / "roots").iterdir():
        (served / "clients" / ME / root.name).write_bytes(root.read_bytes())
    (tmp_path / "targets").mkdir()
    updater = Updater(
        str(tmp_path / "metadata"),
        f"file://{served}/clients/{ME}/",
        str(tmp_path / "targets"),
        f"file://{served}/",
        FolderFetcher(),
        bootstrap=site.instruction_roots[0],
    )
    updater.refresh()
    info = updater.get_targetinfo(instructions_target(ME))
    assert info is not None
    assert ME.encode() in Path(updater.download_target(info)).read_bytes()
