"""The documentation's link check, and the changelog's fragments, on small projects of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

from tools import changelog

ROOT = Path(__file__).resolve().parents[2]
PAGE = """# The page

See [the glossary](docs/glossary.md#one-word-per-thing) and [the top](#the-page).
![picture](docs/picture.png) and [elsewhere](https://example.org/gone).
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "docs" / "adr").mkdir(parents=True)
    (tmp_path / "README.md").write_text(PAGE)
    (tmp_path / "docs" / "glossary.md").write_text(
        "# Glossary\n\n## One `word` per thing!\n\nBack to [README](../README.md).\n"
    )
    (tmp_path / "docs" / "picture.png").write_bytes(b"")
    return tmp_path


def build(project: Path, *arguments: str) -> tuple[int, str]:
    answer = subprocess.run(
        [sys.executable, ROOT / "tools" / "build_docs.py", "--root", project, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.returncode, answer.stdout + answer.stderr


def test_sound_pages_become_html_with_links_between_them(project: Path) -> None:
    code, said = build(project)

    assert code == 0, said
    page = (project / "build/docs/README.html").read_text()
    assert 'href="docs/glossary.html#one-word-per-thing"' in page
    assert '<h1 id="the-page">' in page
    assert "<title>The page</title>" in page
    assert 'src="../../docs/picture.png"' in page
    assert 'href="https://example.org/gone"' in page
    assert 'href="../README.html"' in (project / "build/docs/docs/glossary.html").read_text()


def test_checking_alone_writes_nothing(project: Path) -> None:
    assert build(project, "--check")[0] == 0
    assert not (project / "build").exists()


@pytest.mark.parametrize(
    ("link", "fault"),
    [
        ("[x](docs/gone.md)", "leads to docs/gone.md, which does not exist"),
        ("[x](docs/Glossary.md)", "leads to docs/Glossary.md, which does not exist"),
        ("[x](docs/glossary.md#gone)", "docs/glossary.md has no heading with the anchor #gone"),
        ("[x](#gone)", "README.md has no heading with the anchor #gone"),
        ("[x](../outside.md)", "leads out of the project"),
        ("[x](/etc/passwd)", "is absolute"),
        ("![x](docs/gone.png)", "leads to docs/gone.png, which does not exist"),
        ("[x][mark]\n\n[mark]: docs/gone.md", "leads to docs/gone.md, which does not exist"),
    ],
)
def test_a_link_that_leads_nowhere_is_named_with_file_and_line(project: Path, link: str, fault: str) -> None:
    (project / "README.md").write_text(f"{PAGE}\nOne line.\nA paragraph that\nholds {link}\n")

    code, said = build(project)

    assert code == 1
    line = 10 if "mark" in link else 8  # a link by reference is mended where its target is written
    assert said.startswith(f"README.md:{line}: "), said
    assert fault in said
    assert not (project / "build").exists()


def test_repeated_headings_have_numbered_anchors(project: Path) -> None:
    (project / "README.md").write_text("# A\n\n## Same\n\n## Same\n\n[first](#same) [second](#same-1)\n")
    assert build(project)[0] == 0
    (project / "README.md").write_text("# A\n\n## Same\n\n[second](#same-1)\n")
    assert build(project)[0] == 1


@pytest.fixture
def fragments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "changelog.d"
    folder.mkdir()
    (folder / "README.md").write_text("How to.")
    (tmp_path / "CHANGELOG.md").write_text(
        f"# Changelog\n\n{changelog.MARK}\n## 0.1.0 (2026-01-01)\n\n### Added\n\n- Old.\n"
    )
    for name, place in {"ROOT": tmp_path, "FRAGMENTS": folder, "CHANGELOG": tmp_path / "CHANGELOG.md"}.items():
        monkeypatch.setattr(changelog, name, place)
    return folder


def test_fragments_become_a_release_above_the_older_ones(fragments: Path) -> None:
    (fragments / "faster-poll.changed.md").write_text("Polling is\nfaster.\n")
    (fragments / "new-noun.added.md").write_text("A new noun.\n")

    assert changelog.assemble("1.2.3") == 0

    text = changelog.CHANGELOG.read_text()
    assert (
        text.index("## 1.2.3 (")
        < text.index("- A new noun.")
        < text.index("- Polling is\n  faster.")
        < text.index("## 0.1.0")
    )
    assert [path.name for path in fragments.iterdir()] == ["README.md"]


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("Loud Name.added.md", "Text.", "the name must be"),
        ("slow.improved.md", "Text.", "the name must be"),
        ("empty.added.md", " \n", "is empty"),
        ("title.added.md", "# Text.", "no heading"),
    ],
)
def test_a_fragment_with_a_fault_is_named(fragments: Path, name: str, text: str, fault: str) -> None:
    (fragments / name).write_text(text)

    assert [line for line in changelog.check() if name in line and fault in line]
    assert changelog.assemble("1.2.3") == 1
    assert (fragments / name).exists()


def test_a_release_of_nothing_is_refused(fragments: Path) -> None:
    before = changelog.CHANGELOG.read_text()
    assert changelog.assemble("1.2.3") == 1
    assert changelog.CHANGELOG.read_text() == before
    assert fragments.is_dir()
