"""The work of ``action.yml``: run mopt with the inputs of the step, and tell GitHub what came out.

Inputs are read from the environment (``INPUT_TIME_BUDGET`` for ``time-budget``), and each becomes one argument. While mopt
runs, GitHub is told to take no commands from the log: it may quote names out of a model file, and a model file is hostile.
Needs nothing but Python's standard library.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_USAGE = 2
_VERDICTS = {0: "pass", 3: "fail", 4: "inconclusive"}
"""Of a gate, by exit code."""
_SUMMARY_LIMIT = 900_000
"""Characters; GitHub drops a summary of more than 1 MiB whole."""
_ROWS = 24
_ANNOTATION = re.compile(r"::(error|warning|notice) title=mopt [^:\n]*::[^\n]*")


class InputError(Exception):
    """An input of the step is wrong."""


@dataclasses.dataclass(frozen=True)
class Command:
    """How the inputs of the step become arguments.

    Attributes:
        subject: The input with the positional arguments, one on each line.
        required: Whether there must be one.
        out: Where the result goes when the input ``out`` is empty.
        options: Inputs that are an option of the same name.
        repeated: Inputs with one value on each line, and the option that is repeated for them.
    """

    subject: str
    required: bool
    out: str
    options: tuple[str, ...]
    repeated: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def inputs(self) -> tuple[str, ...]:
        """All inputs that mean something to the command."""
        return (self.subject, *self.options, *self.repeated)


COMMANDS = {
    "build": Command(
        "model", False, "model.mopt",
        ("recipe", "data", "metric", "tolerance", "inconclusive", "time-budget", "target", "rate", "p99"),
    ),
    "gate": Command(
        "candidate", True, "mopt-gate",
        ("against", "recipe", "data", "metric", "tolerance", "inconclusive", "time-budget"), {"limits": "limit"},
    ),
    "size": Command(
        "artifacts", True, "mopt-size", ("rate", "p99", "this-machine", "max-cost"), {"compare": "compare"},
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Result:
    """What the page of the run shows.

    Attributes:
        outputs: Of the step, by name.
        level: Of the annotation: error, warning or notice.
        sentence: Its text; empty for none.
        summary: Markdown; empty for none.
    """

    outputs: Mapping[str, str]
    level: str = "notice"
    sentence: str = ""
    summary: str = ""


def main() -> int:
    """Run the command that the step names, and return its exit code."""
    name = value("command")
    try:
        arguments, out = arguments_of(name)
    except InputError as error:
        write_outputs({"verdict": "error"})
        annotate("error", f"mopt {name}", str(error))
        return _USAGE
    if name == "size":
        out.mkdir(parents=True, exist_ok=True)
    code, printed, log = run(arguments, capture=name == "size")
    result = _RESULTS[name](code, out, printed) if code in _VERDICTS else Result({"verdict": "error"})
    write_outputs({"report": str(out), **result.outputs})
    write_summary(result.summary)
    tell(name, code, log, result)
    return code


def value(name: str) -> str:
    """Return an input of the step; empty when it was not given."""
    return os.environ.get(f"INPUT_{name.upper().replace('-', '_')}", "")


def lines(name: str) -> list[str]:
    """Return the lines of an input that are not empty."""
    return [line for line in value(name).splitlines() if line.strip()]


def arguments_of(name: str) -> tuple[list[str], Path]:
    """Return the command line of mopt, and the folder where the result will be.

    Raises:
        InputError: When there is no such command, or an input is missing or of another command.
    """
    if name not in COMMANDS:
        raise InputError(f"the input command is {name!r}; it is one of {', '.join(COMMANDS)}")
    command = COMMANDS[name]
    for stray in sorted({stray for each in COMMANDS.values() for stray in each.inputs} - set(command.inputs)):
        if value(stray):
            raise InputError(f"the input {stray} has no effect on mopt {name}; leave it out")
    subjects = lines(command.subject)
    if command.required and not subjects:
        raise InputError(f"mopt {name} needs the input {command.subject}")
    out = Path(value("out") or command.out)
    options = [f"--{option}={value(option)}" for option in command.options if value(option)]
    options += [f"--{option}={line}" for source, option in command.repeated.items() for line in lines(source)]
    return [name, *options, *_places(name, out), *lines("arguments"), "--", *subjects], out


def _places(name: str, out: Path) -> list[str]:
    if name == "size":
        return [f"--out={out / 'report.html'}", "--force", "--json"]
    if name == "gate":
        return [f"--out={out}", "--force", f"--junit={out}.xml", f"--markdown={out}.md"]
    return [f"--out={out}", "--force"]


def run(arguments: list[str], *, capture: bool) -> tuple[int, str, list[str]]:
    """Run mopt; all that it prints goes to the log, where GitHub takes no commands from it meanwhile.

    Everything is written to one stream: GitHub reads two of them in no order, and might take commands too early again.

    Args:
        arguments: Of mopt.
        capture: Keep its standard output for the caller instead.

    Returns:
        The exit code, the captured output, and the lines of standard error.
    """
    program = shutil.which("mopt")
    if program is None:
        return _USAGE, "", ["mopt: mopt is not installed", "hint: leave the input install as it is, or install it before"]
    token = secrets.token_hex(16)
    say(f"::stop-commands::{token}")
    log: list[str] = []
    with tempfile.TemporaryFile("w+", encoding="utf-8") as captured:
        process = subprocess.Popen(
            [program, *arguments],
            stdout=captured if capture else None,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUTF8": "1"},
            encoding="utf-8",
            errors="replace",
        )
        assert process.stderr is not None
        for line in process.stderr:
            log.append(line.rstrip("\n"))
            say(log[-1])
        code = process.wait()
        captured.seek(0)
        printed = captured.read()
    say(f"::{token}::")
    return code, printed, log


def gate_result(code: int, out: Path, _: str) -> Result:
    """Gather the report in one folder; mopt itself has written the summary and the annotations."""
    verdict = _VERDICTS[code]
    if (out / "gate.json").is_file():
        Path(f"{out}.xml").replace(out / "junit.xml")
        Path(f"{out}.md").replace(out / "summary.md")
        verdict = read_json(out / "gate.json")["verdict"]
    return Result({"verdict": verdict})


def build_result(code: int, out: Path, _: str) -> Result:
    """Say which candidate an artifact holds, and how much faster it is."""
    if code != 0:
        return Result({"verdict": _VERDICTS[code]})
    manifest = read_json(out / "manifest.json")
    batching, chosen, speedup = manifest["batching"], manifest["chosen"], _speedup(manifest)
    outputs = {
        "verdict": "pass" if manifest["deployable"] else "fail",
        "artifact": str(out),
        "chosen": chosen,
        "speedup": _number(speedup),
    }
    if batching.get("rate") is not None:
        p99 = batching.get("p99") or {}
        outputs |= {"replicas": str(batching["replicas"]), "p99-ms": _number(p99.get("value"))}
    sentence = f"{chosen}, {_number(speedup)} times as fast as the reference" if speedup is not None else chosen
    level = "notice"
    if not manifest["deployable"]:
        level, sentence = "warning", f"not deployable: {manifest['not_deployable_because']}"
    report = out / "report.md"
    return Result(outputs, level, sentence, report.read_text(encoding="utf-8") if report.is_file() else "")


def size_result(code: int, out: Path, printed: str) -> Result:
    """Say which machines a sizing recommends."""
    if code != 0:
        return Result({"verdict": _VERDICTS[code]})
    (out / "sizing.json").write_text(printed, encoding="utf-8")
    sizing = json.loads(printed)
    if sizing["recommended"] is None:
        sentence = f"nothing holds {sizing['rate']:g} requests per second: {sizing['why']}"
        return Result({"verdict": "fail"}, "warning", sentence, _size_summary(sizing, sentence))
    option = sizing["options"][sizing["recommended"]]
    replicas = f"{option['replicas']['value']:.0f}"
    p99, monthly = (_middle(option[name]) for name in ("p99_ms", "monthly_usd"))
    outputs = {
        "verdict": "pass",
        "machine": option["target"],
        "chosen": option["precision"],
        "replicas": replicas,
        "p99-ms": _number(p99),
        "monthly-usd": "" if monthly is None else f"{monthly:.2f}",
    }
    price = "" if monthly is None else f", ${monthly:,.0f} a month"
    sentence = f"{replicas} x {option['target']} with {option['precision']}{price}: {sizing['why']}"
    return Result(outputs, "notice", sentence, _size_summary(sizing, sentence))


_RESULTS = {"build": build_result, "gate": gate_result, "size": size_result}


def read_json(path: Path) -> Any:
    """Return what is in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def _speedup(manifest: dict[str, Any]) -> float | None:
    """Of the chosen candidate over the reference, the first trial, at the smallest batch size that was measured."""
    trials = {trial["name"]: trial for trial in manifest["trials"]}
    chosen, reference = (_smallest(trial) for trial in (trials[manifest["chosen"]], manifest["trials"][0]))
    if manifest["chosen"] == manifest["trials"][0]["name"]:
        return 1.0
    if chosen is None:
        return None
    if chosen.get("ratio"):
        return float(chosen["ratio"]["value"])
    if reference is None or reference["batch"] != chosen["batch"]:
        return None
    return float(reference["p50"]["value"] / chosen["p50"]["value"])


def _smallest(trial: dict[str, Any]) -> dict[str, Any] | None:
    batches = (trial.get("profile") or {}).get("batches", [])
    smallest: dict[str, Any] | None = min(batches, key=lambda entry: entry["batch"], default=None)
    return smallest


def _size_summary(sizing: dict[str, Any], sentence: str) -> str:
    options = sorted(sizing["options"], key=lambda option: (bool(option["excluded"]), _middle(option["monthly_usd"]) or 0.0))
    rows = [
        [
            option["target"], option["precision"], option["origin"], _span(option["replicas"], "{:.0f}"),
            _span(option["p99_ms"], "{:.3g} ms"), _span(option["monthly_usd"], "${:,.0f}"), option["excluded"],
        ]
        for option in options[:_ROWS]
    ]  # fmt: skip
    head = ["machine", "model", "figures", "machines needed", "p99", "a month", "why not"]
    table = ["| " + " | ".join(map(_cell, row)) + " |" for row in (head, *rows)]
    table.insert(1, "|" + " --- |" * len(head))
    more = [f"and {len(options) - _ROWS} more in the report"] if len(options) > _ROWS else []
    notes = [f"Note: {warning}." for warning in sizing["warnings"]]
    paragraphs = [f"## mopt size: {_cell(sizing['name'])}", _cell(sentence), "\n".join(table), *more, *map(_cell, notes)]
    return "\n\n".join(paragraphs)


def _middle(figure: dict[str, Any] | None) -> float | None:
    return None if figure is None else float(figure["value"])


def _span(figure: dict[str, Any] | None, form: str) -> str:
    if figure is None:
        return "-"
    low, middle, high = (form.format(float(figure[key])) for key in ("low", "value", "high"))
    return middle if low == high else f"{middle} ({low} to {high})"


def _number(number: float | None) -> str:
    return "" if number is None else f"{number:.4g}"


def _cell(text: str) -> str:
    """Return text of a Markdown table in which nothing is markup."""
    plain = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return re.sub(r"([\\`*_\[\]<>|~&#!])", r"\\\1", plain)


def write_outputs(outputs: Mapping[str, str]) -> None:
    """Set outputs of the step; a value with lines in it sets no other output."""
    if path := os.environ.get("GITHUB_OUTPUT"):
        with Path(path).open("a", encoding="utf-8") as stream:
            for name, text in outputs.items():
                mark = secrets.token_hex(16)
                stream.write(f"{name}<<{mark}\n{text}\n{mark}\n")


def write_summary(summary: str) -> None:
    """Put Markdown on the page of the run."""
    if summary and (path := os.environ.get("GITHUB_STEP_SUMMARY")):
        with Path(path).open("a", encoding="utf-8") as stream:
            stream.write(summary[:_SUMMARY_LIMIT] + "\n")


def tell(name: str, code: int, log: list[str], result: Result) -> None:
    """Annotate the run: with what mopt said to GitHub itself, else with the result, else with the error."""
    commands = [line for line in log if _ANNOTATION.fullmatch(line)]
    for command in commands:
        say(command)
    if result.sentence:
        annotate(result.level, f"mopt {name}", result.sentence)
    elif code != 0 and not commands:
        told = [line.partition(": ")[2] for line in log if line.startswith(("mopt: ", "hint: "))]
        annotate("error", f"mopt {name}", "\n".join(told) or f"mopt ended with exit code {code}; the log says why")


def annotate(level: str, title: str, text: str) -> None:
    """Print a workflow command; nothing in the text is read as another one."""
    data = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    properties = title.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A").replace(":", "%3A").replace(",", "%2C")
    say(f"::{level} title={properties}::{data}")


def say(text: str) -> None:
    """Print a line at once, so that it keeps its place between those of mopt."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    sys.exit(main())
