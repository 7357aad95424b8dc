"""``mopt init``."""

from __future__ import annotations

__all__ = ["command"]

from pathlib import Path

import click

from mopt.cli._output import json_option, print_json


@click.command("init")
@click.argument("source", required=False)
@click.option("--data", default="", help="Samples to write into the recipe.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("mopt.toml"), help="File to write; - for stdout.")
@click.option("--force", is_flag=True, help="Replace a recipe that is there.")
@click.option("--schema", is_flag=True, help="Print the JSON schema of a recipe instead.")
@json_option
def command(source: str | None, data: str, out: Path, force: bool, schema: bool, as_json: bool) -> None:
    """Write a commented recipe for a model.

    The inputs and outputs of an ONNX file are written into it as comments.
    """
    from mopt.errors import UserError
    from mopt.recipe import Recipe
    from mopt.workflows.init import render_recipe

    if schema:
        print_json(Recipe.model_json_schema())
        return
    if source is None:
        raise UserError("no model was given", "mopt init MODEL")
    text = render_recipe(source, data)
    if str(out) == "-":
        click.echo(text, nl=False)
        return
    if out.exists() and not force:
        raise UserError(f"{out} is there already", "add --force to replace it, or --out FILE")
    out.write_text(text, encoding="utf-8")
    print_json({"recipe": str(out)}) if as_json else click.echo(f"wrote {out}; next: mopt build --recipe {out}")
