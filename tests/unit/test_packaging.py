"""What ships beside the code, and what the code says of its own commands, is true."""

import configparser
import re
import tomllib
from pathlib import Path

import click

from pcm.cli.main import root
from pcm.cli.status import set_aside
from pcm.service.facts import AGENT_VERSION
from tools.packages.inputs import client_distributions
from tools.packages.tree import source_version

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "packaging" / "systemd" / "pcmsvc.service"
# a command as text names it: in code quotes, or as a line of its own in a block of the manual
_NAMED = re.compile(r"`pcm ([a-z]+)(?: ([a-z-]+))?")


def test_the_unit_that_ships_leaves_installers_alone_and_comes_back() -> None:
    unit = configparser.ConfigParser(strict=True, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(UNIT.read_text())
    service = unit["Service"]
    assert (service["Type"], service["KillMode"], service["Restart"]) == ("notify", "process", "always")
    assert service["ExecStart"].endswith("/pcmsvc run")
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    assert "packaging/systemd/pcmsvc.service" in (ROOT / "docs" / "client.md").read_text()


def test_packages_say_the_version_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert source_version() == project["version"] == AGENT_VERSION


def test_what_a_package_of_the_client_holds_is_locked() -> None:
    """Every distribution that the client needs has its hashes in the lock: nothing else may be fetched for a package."""
    locked = set(re.findall(r"^([A-Za-z0-9._-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    assert {"tuf", "cryptography", "msgspec"} <= client_distributions() <= {name.lower() for name in locked}


def test_every_command_of_pcm_that_code_and_manual_name_exists() -> None:
    context = click.Context(root)
    found = 0
    for path in (*(ROOT / "src").rglob("*.py"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"):
        for noun, verb in _NAMED.findall(path.read_text()):
            command = root.get_command(context, noun)
            assert command is not None, f"{path}: there is no `pcm {noun}`"
            if verb and isinstance(command, click.Group):
                found += 1
                assert command.get_command(context, verb) is not None, f"{path}: there is no `pcm {noun} {verb}`"
    assert found > 20


def test_what_was_set_aside_is_not_called_a_report_if_it_may_be_a_file() -> None:
    assert set_aside(0) == ""
    assert set_aside(1) == "1 report or instruction file that could not be processed"
    assert set_aside(2) == "2 reports or instruction files that could not be processed"
