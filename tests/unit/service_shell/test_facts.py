"""Facts of this computer, whatever its system says of itself."""

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from pcm.model.names import check_platform
from pcm.service.facts import AGENT_VERSION, read_facts


def test_the_platform_is_one_that_packages_can_name() -> None:
    assert check_platform(read_facts().platform)


@pytest.mark.parametrize("content", ["", "NAME=\nVERSION_ID", "NAME='Debian\x1b[31m'\n#NAME=x\n", "NAME=" + "x" * 5000])
def test_any_os_release_gives_facts_that_a_document_can_hold(tmp_path: Path, content: str) -> None:
    path = tmp_path / "os-release"
    path.write_text(content)
    facts = read_facts(path)
    assert len(facts.os_name) <= 256
    assert facts.os_name.isprintable()


def test_the_version_is_the_packages_own() -> None:
    """A constant, because asking the installed package costs each poll 20 ms."""
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert AGENT_VERSION == project["version"] == version(project["name"])


def test_a_missing_os_release_is_no_error(tmp_path: Path) -> None:
    assert read_facts(tmp_path / "none").os_name
