"""`pcm completion`: the lines that teach a shell to complete `pcm`. Serves the administrator's fingers."""

import click
from click.shell_completion import get_completion_class

from pcm.cli.verbs import Verb
from pcm.model.errors import RequestError


@click.command("completion", cls=Verb)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script for SHELL.

    bash: eval "$(pcm completion bash)" in ~/.bashrc; zsh: the same in ~/.zshrc; fish: into ~/.config/fish/completions/pcm.fish
    """
    from pcm.cli.main import root  # noqa: PLC0415 - main loads this module

    kind = get_completion_class(shell)
    if kind is None:
        raise RequestError(f"No completion is known for {shell}.", code="usage")
    # the text of the script, without starting that shell to ask for its version, as click's own way would
    completer = kind(root, {}, "pcm", "_PCM_COMPLETE")
    click.echo(completer.source_template % completer.source_vars())
