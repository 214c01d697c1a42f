"""`pcmsvc completion`: scripts that know every command, and a misspelt command that is hinted at."""

import re
import subprocess

import pytest

from pcm.app import main as pcmapp
from pcm.service import completion
from pcm.service.main import main, parser


def test_it_knows_every_command_and_its_options() -> None:
    known = completion.words(parser())
    assert {"install", "check", "once", "simulate", "ledger", "pause", "completion"} <= set(known)
    assert "--at" in known["simulate"]
    assert {"--purge", "--wait"} <= set(known["remove"])
    assert {"show", "verify"} <= set(known["ledger"])
    assert not {"watch-update", "names"} & set(known), "only programs call them"


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_each_shell_has_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert not {"@VERBS@", "@CASES@"} & set(re.findall("@[A-Z]+@", script))
    for word in ("simulate", "--at", "verify", "bash"):
        assert word in script


@pytest.mark.parametrize(
    ("typed", "completed"),
    [("sim", "simulate"), ("ledger v", "verify"), ("pause --f", "--for"), ("nosuch -", ""), ("log nosuch", "")],
)
def test_bash_completes(typed: str, completed: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["completion", "bash"])
    words = typed.split()
    asked = f'COMP_WORDS=(pcmsvc {typed}); COMP_CWORD={len(words)}; _pcmsvc; echo "${{COMPREPLY[@]}}"'
    script = capsys.readouterr().out + asked
    done = subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == completed


@pytest.mark.parametrize("typed", ["why fire", "log fire"])
def test_names_of_packages_are_completed(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["completion", "bash"])
    script = capsys.readouterr().out + 'pcmsvc() { [ "$*" = names ] && printf "%s\\n" editor firefox; }\n'
    asked = f'COMP_WORDS=(pcmsvc {typed}); COMP_CWORD=2; _pcmsvc; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", script + asked], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "firefox"
    for shell in ("zsh", "fish"):
        main(["completion", shell])
        assert capsys.readouterr().out.count("pcmsvc names") == 2


def test_a_misspelt_command_is_hinted_at_and_not_answered_with_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["stauts"])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "there is no command 'stauts'. Did you mean status? `pcmsvc --help` names them all." in said
    assert "watch-update" not in said
    assert pcmapp.run(["instal", "jq"]) == 2
    assert "Did you mean install?" in capsys.readouterr().err
    assert pcmapp.run(["xyzzy"]) == 2
    assert "Did you mean" not in capsys.readouterr().err


def test_a_fixed_word_that_is_wrong_is_answered_with_the_right_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["ledger", "foo"])
    assert "choose from 'show', 'verify'" in capsys.readouterr().err
