"""Shell completion for `pcmapp`: a script for each shell, which asks `pcmapp` itself for the names of the moment.

Serves step 9. What is completed comes from packages and jobs, so it passes as plain words: letters, digits and `.+~_-` only.
"""

import re
from collections.abc import Callable, Iterable

from pcm.protocol.local import Item

SHELLS = ("bash", "zsh", "fish")
_WORD = re.compile(r"[A-Za-z0-9.+~_-]{1,200}")
_BASH = """\
_pcmapp() {
    local word=${COMP_WORDS[COMP_CWORD]}
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "@VERBS@" -- "$word"))
    elif [ "${word#-}" != "$word" ]; then
        COMPREPLY=($(compgen -W "--json --help --all --wait --now --later" -- "$word"))
    else
        COMPREPLY=($(compgen -W "$(pcmapp names "${COMP_WORDS[1]}" 2>/dev/null)" -- "$word"))
    fi
}
complete -F _pcmapp pcmapp
"""
_ZSH = """\
#compdef pcmapp
_pcmapp() {
    if (( CURRENT == 2 )); then
        compadd -- @VERBS@
    else
        compadd -- ${(f)"$(pcmapp names ${words[2]} 2>/dev/null)"}
    fi
}
if [ "${funcstack[1]}" = _pcmapp ]; then  # loaded by zsh itself, from a folder of completions
    _pcmapp "$@"
else
    compdef _pcmapp pcmapp
fi
"""
_FISH = """\
complete -c pcmapp -f
complete -c pcmapp -n __fish_use_subcommand -a "@VERBS@"
complete -c pcmapp -n "not __fish_use_subcommand" -a "(pcmapp names (commandline -opc)[2] 2>/dev/null)"
"""


def script(shell: str, verbs: Iterable[str]) -> str:
    """The script to load, for one of `SHELLS`."""
    text = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}[shell]
    return text.replace("@VERBS@", " ".join(sorted(verbs)))


def names(items: Iterable[Item], verb: str) -> list[str]:
    """What can stand behind a verb: names of packages that it can mean, sorted."""
    fitting: dict[str, Callable[[Item], bool]] = {
        "install": lambda item: item.can_run,
        "postpone": lambda item: item.can_defer,
        "cancel": lambda item: item.can_cancel,
        "show": lambda _: True,
        "why": lambda _: True,
    }
    fits = fitting.get(verb)
    found = {item.package for item in items if fits is not None and fits(item)}
    return sorted(name for name in found if _WORD.fullmatch(name))
