"""``mopt doctor``."""

from __future__ import annotations

__all__ = ["app"]

from mopt.cli import _options as opt
from mopt.cli._lazy import PanelCommand, command_app
from mopt.cli._output import print_json, print_table, result_console

app = command_app()


@app.command("doctor", cls=PanelCommand)
def command(as_json: opt.AsJson = False) -> None:
    """Show what is installed, what is missing, and the line that installs it."""
    from mopt.workflows.doctor import examine

    report = examine()
    if as_json:
        print_json(report)
        return
    console = result_console()
    for key, value in report["machine"].items():
        console.print(f"{key:10}{value}", markup=False)
    rows = [
        [entry["extra"] or "core", entry["library"], entry["version"] or "missing", entry["install"]]
        for entry in report["libraries"]
    ]
    print_table(["part", "library", "version", "to install"], rows)
    print_table(
        ["server or converter", "state"],
        [
            [tool["name"], f"needs {tool['missing']}" if tool["missing"] else tool["install"] or tool["folder"]]
            for tool in report["tools"]
        ],
    )
    for problem in report["problems"]:
        console.print(f"note      {problem}", markup=False, soft_wrap=True)
