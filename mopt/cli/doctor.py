"""``mopt doctor``."""

from __future__ import annotations

__all__ = ["command"]

import click

from mopt.cli._output import json_option, print_json, print_table, result_console


@click.command("doctor")
@json_option
def command(as_json: bool) -> None:
    """Show what is installed, what is missing, and the line that installs it."""
    from mopt.workflows.doctor import examine

    found = examine()
    if as_json:
        print_json(found)
        return
    console = result_console()
    for key, value in found["machine"].items():
        console.print(f"{key:10}{value}", markup=False)
    rows = [
        [entry["extra"] or "core", entry["library"], entry["version"] or "missing", entry["install"]]
        for entry in found["libraries"]
    ]
    print_table(["part", "library", "version", "to install"], rows)
    for problem in found["problems"]:
        console.print(f"note      {problem}", markup=False, soft_wrap=True)
