"""What the command line takes, where its common options may stand, and what each kind of error looks like."""

import json
import sys
from pathlib import Path

import click
import pytest

from pcm.cli.exit_codes import exit_code
from pcm.cli.main import NOUNS, root
from pcm.model.errors import MachineError, PcmError, RequestError, StoreError, TransferError, TrustError
from tests.unit.cli.conftest import Pcm


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RequestError("x"), 1),
        (TrustError("x", code="trust.rollback"), 1),
        (StoreError("x"), 1),
        (MachineError("x"), 1),
        (RequestError("x", code="usage"), 2),
        (RequestError("x", code="not_found"), 3),
        (RequestError("x", code="not_allowed"), 4),
        (RequestError("x", code="unauthenticated"), 4),
        (TransferError("x", code="transfer.unreachable"), 5),
    ],
)
def test_each_cause_has_its_exit_code(error: PcmError, code: int) -> None:
    assert exit_code(error) == code


def test_help_lists_every_noun_in_the_order_of_work(pcm: Pcm) -> None:
    answer = pcm("--help")
    assert answer.code == 0
    listed = [line.split()[0] for line in answer.out.partition("Commands:")[2].splitlines() if line.strip()]
    assert listed == list(NOUNS)


def test_help_loads_no_noun_and_nothing_heavy(pcm: Pcm) -> None:
    before = {name for name in sys.modules if name.startswith("pcm.cli.")}
    pcm("--help")
    after = {name for name in sys.modules if name.startswith("pcm.cli.")}
    assert after == before


@pytest.mark.parametrize("noun", list(NOUNS))
def test_every_noun_and_verb_explains_itself(pcm: Pcm, noun: str) -> None:
    assert pcm(noun, "--help").code == 0
    with click.Context(root) as context:
        command = root.get_command(context, noun)
        assert command is not None
        verbs = command.commands if isinstance(command, click.Group) else {}
    for verb, about in verbs.items():
        answer = pcm(noun, verb, "-h")
        assert answer.code == 0
        assert about.help
        assert "Everywhere:" in answer.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("frobnicate",), "No such command 'frobnicate'"),
        (("packge", "list"), "Did you mean package?"),
        (("package", "frob"), "No such command 'frob'"),
        (("job", "create"), "Missing argument 'PACKAGE'"),
        (("job", "create", "jq"), "Missing option"),
        (("--output", "xml", "status"), "'xml' is not one of"),
        (("job", "create", "jq", "-g", "all", "--mandatory-after", "2026-01-31T10:00"), "does not say its offset"),
        (("job", "create", "jq", "-g", "all", "--mandatory-after", "soon"), "is no time"),
        (("job", "create", "jq", "-g", "all", "--mandatory-after", "2d"), "or +2d for that long from now"),
        (("client", "token", "--expires-in", "5"), "is no span of time"),
        (("site", "serve"), "Missing argument"),
    ],
)
def test_usage_mistakes_end_with_two(pcm: Pcm, arguments: tuple[str, ...], says: str) -> None:
    answer = pcm(*arguments)
    assert answer.code == 2
    assert says in answer.err


def test_without_a_site_it_says_how_to_name_one(pcm: Pcm) -> None:
    answer = pcm("status")
    assert answer.code == 2
    assert "Which site?" in answer.err
    assert "[usage]" in answer.err


def test_errors_for_programs_are_json(pcm: Pcm) -> None:
    answer = pcm("status", "--json")
    assert json.loads(answer.err)["error"]["code"] == "usage"
    assert answer.out == ""


def test_debug_shows_where_an_error_came_from(pcm: Pcm) -> None:
    assert "Traceback" not in pcm("status").err
    assert "Traceback" in pcm("status", "--debug").err
    assert "Traceback" in pcm("--debug", "status").err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(pcm: Pcm, shell: str) -> None:
    answer = pcm("completion", shell)
    assert answer.code == 0
    assert f"_PCM_COMPLETE={shell}_complete" in answer.out


def test_version_names_itself(pcm: Pcm) -> None:
    answer = pcm("--version")
    assert answer.code == 0
    assert answer.out.startswith("pcm ")


def test_a_parameter_without_a_value_is_a_usage_mistake(pcm: Pcm, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("t")
    token.chmod(0o600)
    answer = pcm("job", "plan", "jq", "-g", "all", "-p", "MODE", "--site", "http://127.0.0.1:1", "--token-file", token)
    assert answer.code == 2
    assert "NAME=VALUE" in answer.err


def test_help_says_before_anybody_tries_that_optional_jobs_do_not_recur(pcm: Pcm) -> None:
    shown = " ".join(pcm("job", "create", "--help").out.split())
    assert "Mandatory jobs only: an optional one is refused." in shown
