"""What the serving systems export, and Prometheus's own promtool, where it is installed, on rules and on made-up series."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from mopt.artifacts.serving._exported import Exported
from mopt.system import plugins

EXPORTED: dict[str, Exported] = {
    name: exported for name in plugins.names("serving") if (exported := plugins.load("serving", name).exported) is not None
}
"""By name of the serving system."""
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed: apt-get install prometheus")


def check(*files: Path) -> None:
    """Fail unless promtool takes the rule files."""
    _run("check", "rules", *map(str, files))


def run_rules(
    folder: Path,
    rules: Path,
    series: Mapping[str, str],
    *,
    at: str,
    values: Mapping[str, float] = MappingProxyType({}),
    firing: Sequence[str] = (),
    quiet: Sequence[str] = (),
) -> None:
    """Fail unless the rules record these values, fire these alerts, and fire none of the quiet ones.

    Args:
        folder: To write to.
        rules: The rule file.
        series: Values over time by series, in promtool's notation, one a minute.
        at: When to look.
        values: By expression what it must be.
        firing: Names of alerts, each for one set of labels or more.
        quiet: Names of alerts that must not fire.
    """
    alarms = 'count(ALERTS{{alertname="{}",alertstate="firing"}}) or vector(0)'
    holds = [f"abs(sum({expression}) - {value}) <= bool 1e-6" for expression, value in values.items()]
    holds += [f"({alarms.format(name)}) > bool 0" for name in firing]
    holds += [f"({alarms.format(name)}) == bool 0" for name in quiet]
    tests: list[dict[str, Any]] = [
        {
            "interval": "1m",
            "input_series": [{"series": name, "values": given} for name, given in series.items()],
            "promql_expr_test": [
                {"expr": expression, "eval_time": at, "exp_samples": [{"labels": "{}", "value": 1}]} for expression in holds
            ],
        }
    ]
    file = folder / "scenario.yml"
    file.write_text(json.dumps({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": tests}))
    _run("test", "rules", str(file))


def _run(*arguments: str) -> None:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
