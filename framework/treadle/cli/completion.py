"""`treadle completion`: the script by which a shell completes our commands and options."""

from __future__ import annotations

import click

from treadle.cli.context import command
from treadle.cli.output import data


@command(name="completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash   eval "$(treadle completion bash)"     in ~/.bashrc
    zsh    eval "$(treadle completion zsh)"      in ~/.zshrc, after compinit
    fish   treadle completion fish | source      in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    from treadle.cli import COMPLETION_VARIABLE, NAME, group

    script = get_completion_class(shell)
    assert script is not None
    data(script(group, {}, NAME, COMPLETION_VARIABLE).source(), end="")
