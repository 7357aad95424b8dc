"""``mopt init``."""

from __future__ import annotations

__all__ = ["app"]

from pathlib import Path
from typing import Annotated

import typer

from mopt.cli import _options as opt
from mopt.cli._lazy import PanelCommand, command_app
from mopt.cli._output import print_json

app = command_app()


@app.command("init", cls=PanelCommand)
def command(
    source: Annotated[str | None, typer.Argument(metavar="SOURCE", help="The model.")] = None,
    data: opt.Data = None,
    out: Annotated[Path | None, opt.out_option("mopt.toml")] = None,
    force: opt.Force = False, schema: opt.Schema = False, as_json: opt.AsJson = False,
) -> None:  # fmt: skip
    """Write a commented recipe for a model.

    The inputs and outputs of an ONNX file are written into it as comments. --out - prints the recipe.
    """
    from mopt.errors import UserError
    from mopt.workflows.init import recipe_schema, render_recipe

    if schema:
        print_json(recipe_schema())
        return
    if source is None:
        raise UserError("no model was given", "mopt init MODEL")
    text = render_recipe(source, data or "")
    path = out or Path("mopt.toml")
    if str(path) == "-":
        typer.echo(text, nl=False)
        return
    if path.exists() and not force:
        raise UserError(f"{path} is there already", "add --force to replace it, or --out FILE")
    path.write_text(text, encoding="utf-8")
    print_json({"recipe": str(path)}) if as_json else typer.echo(f"wrote {path}; next: mopt build --recipe {path}")
