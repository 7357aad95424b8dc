"""``mopt completion``."""

from __future__ import annotations

__all__ = ["command"]

import click


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash: mopt completion bash > ~/.local/share/bash-completion/completions/mopt
    zsh:  mopt completion zsh > ~/.zfunc/_mopt
    fish: mopt completion fish > ~/.config/fish/completions/mopt.fish
    """  # noqa: D301, click takes a real backspace for a paragraph that keeps its lines
    from click.shell_completion import get_completion_class

    from mopt.cli import root

    completion = get_completion_class(shell)
    assert completion is not None
    click.echo(completion(root, {}, "mopt", "_MOPT_COMPLETE").source())
