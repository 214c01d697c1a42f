"""A distribution folder: what is published is whole, in order, and never changes."""

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pcm.content.package_directory import scan
from pcm.distribution.folder import DistributionFolder, Garbage, is_published_name
from pcm.distribution.publish import StoreUploader, UploadProgress, packed_file, upload_missing
from pcm.model.errors import RequestError, StoreError, TrustError
from pcm.model.package import PackageFile
from pcm.model.program import Program
from pcm.protocol.manifest import Manifest, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> DistributionFolder:
    return DistributionFolder(tmp_path / "distribution")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    directory = tmp_path / "package"
    directory.mkdir()
    for number in range(4):
        (directory / f"file{number}").write_bytes(bytes([number]) * 1000 * number)
    (directory / "twin3").write_bytes((directory / "file3").read_bytes())
    (directory / "package.yaml").write_bytes(b"package: hello")
    return directory


def manifest(files: tuple[PackageFile, ...]) -> Manifest:
    return Manifest(
        package="hello",
        version="1.0",
        release=1,
        platforms=("linux-x86_64",),
        programs={"install": Program(argv=("file1",))},
        files=files,
        signed_at=datetime(2026, 3, 1, tzinfo=UTC),
    )


def manifest_file(files: tuple[PackageFile, ...]) -> tuple[str, bytes]:
    content = write_manifest(manifest(files))
    return f"targets/packages/tools/hello/1.0/{hashlib.sha256(content).hexdigest()}.manifest.json", content


METADATA = {
    "metadata/timestamp.json": b"{1}",
    "metadata/3.snapshot.json": b"{2}",
    "metadata/2.targets.json": b"{3}",
    "metadata/5.tools.json": b"{4}",
    "metadata/1.root.json": b"{5}",
}


def test_a_package_is_uploaded_then_published(folder: DistributionFolder, package: Path) -> None:
    files = scan(package)
    told: list[UploadProgress] = []
    assert upload_missing(package, files, StoreUploader(folder.objects), told.append) == 4
    assert told[-1] == UploadProgress(told[-1].path, 4, 4, 6000, 6000)
    name, content = manifest_file(files)
    folder.publish({**METADATA, name: content})
    assert folder.read(name) == content
    assert folder.read("metadata/timestamp.json") == b"{1}"
    assert folder.referenced() == {file.sha256: file.length for file in files}


def test_an_interrupted_upload_goes_on_where_it_was(folder: DistributionFolder, package: Path) -> None:
    files = scan(package)
    upload_missing(package, files[:2], StoreUploader(folder.objects))
    assert upload_missing(package, files, StoreUploader(folder.objects)) == 2
    assert upload_missing(package, files, StoreUploader(folder.objects)) == 0


def test_q235837_a_manifest_without_its_content_is_not_published(folder: DistributionFolder, package: Path) -> None:
    files = scan(package)
    upload_missing(package, files[:-2], StoreUploader(folder.objects))
    name, content = manifest_file(files)
    with pytest.raises(RequestError, match=r"names 1 files that are not in .*, twin3 for one|file3 for one") as caught:
        folder.publish({**METADATA, name: content})
    assert caught.value.code == "conflict"
    assert folder.read("metadata/timestamp.json") is None
    assert folder.read("metadata/1.root.json") is None


def test_the_timestamp_is_written_last_and_what_it_names_before(
    folder: DistributionFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    rename = os.rename

    def noted(source: str, target: str) -> None:
        order.append(str(Path(target).relative_to(folder.root)))
        rename(source, target)

    monkeypatch.setattr(os, "rename", noted)
    folder.publish({**METADATA, "targets/policy/" + "a" * 64 + ".site.json": b"{}"})
    assert order[0].startswith("targets/policy/")
    assert order[-2:] == ["metadata/3.snapshot.json", "metadata/timestamp.json"]
    assert len(order) == 6


def test_q140928_a_publication_that_breaks_off_leaves_the_old_state_visible(folder: DistributionFolder) -> None:
    folder.publish(METADATA)
    (folder.root / "metadata/4.snapshot.json").mkdir()  # cannot be replaced by a file
    with pytest.raises(StoreError):
        folder.publish(
            {"metadata/timestamp.json": b"{new}", "metadata/6.tools.json": b"{}", "metadata/4.snapshot.json": b"{}"}
        )
    assert folder.read("metadata/timestamp.json") == b"{1}"
    assert not list(folder.root.rglob(".incoming-*"))


def test_what_is_published_never_changes_but_the_timestamp(folder: DistributionFolder) -> None:
    folder.publish(METADATA)
    folder.publish({**METADATA, "metadata/timestamp.json": b"{newer}"})
    with pytest.raises(RequestError, match="never changes") as caught:
        folder.publish({"metadata/timestamp.json": b"{x}", "metadata/1.root.json": b"{other}"})
    assert caught.value.code == "conflict"
    assert folder.read("metadata/timestamp.json") == b"{newer}"


@pytest.mark.parametrize(
    "name",
    [
        "", "/etc/passwd", "../x", "metadata/../../x.json", "metadata/x.json", "metadata/0.root.json", "metadata/1.root.json/", "targets/x",
        "targets/../" + "a" * 64 + ".site.json", "objects/aa/" + "a" * 64 + ".zst", "targets/a/" + "a" * 64 + ".site.json\n",
        "targets/a..b/" + "a" * 64 + ".site.json", "metadata/1.ROOT.json", "targets//" + "a" * 64 + ".site.json",
    ],
)  # fmt: skip
def test_other_names_are_neither_written_nor_read(folder: DistributionFolder, name: str) -> None:
    assert not is_published_name(name)
    with pytest.raises(RequestError):
        folder.publish({name: b""})
    with pytest.raises(RequestError):
        folder.read(name)


def test_a_file_that_changed_since_the_scan_is_not_uploaded(folder: DistributionFolder, package: Path) -> None:
    files = scan(package)
    (package / "file3").write_bytes(b"another length")
    (package / "twin3").write_bytes(b"another length")
    with pytest.raises(RequestError) as caught:
        upload_missing(package, files, StoreUploader(folder.objects))
    assert caught.value.code == "request.file_changed"
    (package / "file2").write_bytes(b"x" * 2000)  # of the same length: the store finds out
    elsewhere = DistributionFolder(folder.root / "elsewhere")
    with pytest.raises(TrustError):
        upload_missing(package, [file for file in files if file.path == "file2"], StoreUploader(elsewhere.objects))
    (package / "file1").unlink()
    (package / "file1").symlink_to("/etc/passwd")
    with pytest.raises(RequestError):
        list(packed_file(package, files[1]))


def test_q153637_what_no_manifest_names_is_collected_with_a_report(folder: DistributionFolder, package: Path) -> None:
    files = scan(package)
    upload_missing(package, files, StoreUploader(folder.objects))
    name, content = manifest_file(files[:2])
    folder.publish({name: content})
    sizes = {each.sha256: each.packed for each in folder.objects.list()}
    wanted = folder.referenced()
    assert folder.collect(wanted) == Garbage(0, 0, 4, sum(sizes.values()))  # too young
    report = folder.collect(wanted, grace_s=-1)
    kept = sum(size for sha256, size in sizes.items() if sha256 in wanted)
    assert report == Garbage(2, sum(sizes.values()) - kept, 2, kept)
    assert folder.missing_objects(manifest(files[:2])) == []
    assert len(folder.missing_objects(manifest(files))) == 2
