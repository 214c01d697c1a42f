"""docs/package-yaml.md says what the reader reads."""

import re
from pathlib import Path

import pytest

from pcm.protocol.package_yaml import read_package_yaml
from tools import package_yaml_reference


def test_the_page_is_up_to_date() -> None:
    assert package_yaml_reference.PAGE.read_text() == package_yaml_reference.page(), (
        "run: python -m tools.package_yaml_reference"
    )


def test_its_example_is_a_good_description() -> None:
    example = re.search(r"```yaml\n(.*?)```", package_yaml_reference.PAGE.read_text(), re.DOTALL)
    assert example
    assert read_package_yaml(example.group(1).encode()).package.programs["uninstall"].approvals == 2


def test_the_tool_takes_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert package_yaml_reference.main([str(tmp_path / "p.md")]) == 0
    assert package_yaml_reference.main(["a", "b"]) == 2
    assert "usage" in capsys.readouterr().err
