"""Shell completion for `pcmsvc`: a script for each shell, made from the command line that it completes.

Serves no step; for whoever administers this computer. It names commands, their options and fixed words; files come after
options that take some. Only behind `why` and `log` it asks `pcmsvc` itself, for the packages of the moment: where no service
answers, there are none. What only other programs call is left out.
"""

import argparse

SHELLS = ("bash", "zsh", "fish")
_NOT_FOR_PEOPLE = {"watch-update", "names"}
_WITH_NAMES = {"why", "log"}
_ASK = "pcmsvc names 2>/dev/null"
_BASH = """\
_pcmsvc() {
    local known="@VERBS@"
    if [ "$COMP_CWORD" -gt 1 ]; then
        case "${COMP_WORDS[1]}" in
@CASES@
            *) known="" ;;
        esac
    fi
    COMPREPLY=($(compgen -W "$known" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _pcmsvc pcmsvc
"""
_ZSH = """\
#compdef pcmsvc
_pcmsvc() {
    local known="@VERBS@"
    if (( CURRENT > 2 )); then
        case "${words[2]}" in
@CASES@
            *) known="" ;;
        esac
    fi
    compadd -- ${=known}
    if (( CURRENT > 2 )); then _files; fi
}
if [ "${funcstack[1]}" = _pcmsvc ]; then  # loaded by zsh itself, from a folder of completions
    _pcmsvc "$@"
else
    compdef _pcmsvc pcmsvc
fi
"""


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """The script to load, for one of `SHELLS`."""
    known = words(parser)
    if shell == "fish":
        return "".join(
            f"complete -c pcmsvc -n __fish_use_subcommand -f -a {verb}\n"
            f'complete -c pcmsvc -n "__fish_seen_subcommand_from {verb}" -a "{" ".join(found)}"\n'
            + (
                f"""complete -c pcmsvc -n "__fish_seen_subcommand_from {verb}" -f -a "({_ASK})"\n"""
                if verb in _WITH_NAMES
                else ""
            )
            for verb, found in known.items()
        )
    cases = "\n".join(
        f'            {verb}) known="{" ".join(found)}{f" $({_ASK})" if verb in _WITH_NAMES else ""}" ;;'
        for verb, found in known.items()
    )
    text = {"bash": _BASH, "zsh": _ZSH}[shell]
    return text.replace("@VERBS@", " ".join(known)).replace("@CASES@", cases)


def words(parser: argparse.ArgumentParser) -> dict[str, list[str]]:
    """What can stand behind each command: its long options, and fixed words of its arguments."""
    found: dict[str, list[str]] = {}
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to its subcommands
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for verb, below in action.choices.items():
                if verb not in _NOT_FOR_PEOPLE:
                    found[verb] = [word for each in below._actions for word in _words_of(each)]  # noqa: SLF001
    return found


def _words_of(action: argparse.Action) -> list[str]:
    fixed = [] if action.option_strings else [str(choice) for choice in action.choices or ()]
    return [*fixed, *(option for option in action.option_strings if option.startswith("--"))]
