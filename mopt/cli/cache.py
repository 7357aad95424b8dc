"""``mopt cache``."""

from __future__ import annotations

__all__ = ["app"]

import typer

from mopt.cli import _options as opt
from mopt.cli._lazy import PanelCommand, command_app
from mopt.cli._output import print_json, print_table, result_console

app = command_app()


@app.command("cache", cls=PanelCommand)
def command(clear: opt.Clear = False, as_json: opt.AsJson = False) -> None:
    """Show how large the cache is, or clear it. It lies in $MOPT_CACHE, or in the user's cache folder."""
    from mopt.system.store import Store, default_root

    store = Store(default_root())
    if clear:
        freed = store.clear()
        print_json({"cache": str(store.root), "freed_bytes": freed}) if as_json else typer.echo(
            f"freed {freed / 1e6:,.1f} MB in {store.root}"
        )
        return
    sizes = store.sizes()
    if as_json:
        kinds = {kind: {"entries": entries, "bytes": size} for kind, (entries, size) in sizes.items()}
        print_json({"cache": str(store.root), "kinds": kinds})
        return
    result_console().print(f"cache     {store.root}", markup=False)
    rows = [[kind, f"{entries:,}", f"{size / 1e6:,.1f} MB"] for kind, (entries, size) in sizes.items()]
    total = sum(size for _, size in sizes.values())
    print_table(["kind", "entries", "size"], [*rows, ["total", "", f"{total / 1e6:,.1f} MB"]], right=(1, 2))
