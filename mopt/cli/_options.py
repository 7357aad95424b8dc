"""Each option once: its name, its type, its text and the panel of the help that it stands in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer


def _option(panel: str, *names: str, help: str, default: str = "", **settings: Any) -> Any:  # noqa: A002, what Typer calls it
    text = f"{help} Default: {default}." if default else help
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False, **settings)


# --- data ---------------------------------------------------------------------------------------------------------------

_SAMPLES = "Samples: .npz, folder of .npy or images, CSV, JSONL, Parquet, file.py:function."
Data = Annotated[str | None, _option("Data", "--data", metavar="PATH", help=_SAMPLES)]
Label = Annotated[str | None, _option("Data", "--label", metavar="NAME", help="Array or column with the labels.")]
Group = Annotated[
    str | None, _option("Data", "--group", metavar="NAME", help="Array or column that says which samples belong together.")
]
Labels = Annotated[
    str | None, _option("Data", "--labels", metavar="FILE", help="CSV of mopt label with labels of a few samples filled in.")
]
Calibration = Annotated[int | None, _option("Data", "--calibration", metavar="N", help="Number of samples to calibrate with.")]
Evaluation = Annotated[int | None, _option("Data", "--evaluation", metavar="N", min=2, help="Most samples to evaluate with.")]

Requests = Annotated[
    Path,
    _option(
        "Data", "--requests", metavar="FILE",
        help="Captured requests: samples as for --data, or bodies of KServe's V2 protocol as JSON lines.",
    ),
]  # fmt: skip
InputsOnly = Annotated[bool, _option("Data", "--inputs-only", help="Leave the outputs alone; the model is not run.")]

# --- goal ---------------------------------------------------------------------------------------------------------------

Target = Annotated[str | None, _option("Goal", "--target", metavar="NAME", help="Where it will run; see mopt list targets.")]
Objective = Annotated[
    Literal["latency", "throughput", "size"] | None, _option("Goal", "--objective", help="What the winner is best at.")
]
Tolerance = Annotated[
    str | None,
    _option("Goal", "--tolerance", metavar="AMOUNT", help="What may be lost of the metric: 1% (relative) or 0.5pp."),
]
Against = Annotated[
    str | None,
    _option(
        "Goal", "--against", metavar="BASELINE", default="mopt-baseline.json",
        help="What to compare with: an artifact, a model, or a file of mopt baseline set.",
    ),
]  # fmt: skip
Metric = Annotated[
    str | None, _option("Goal", "--metric", metavar="NAME", help="A metric of mopt list metrics, or file.py:function.")
]
KnownAccuracy = Annotated[
    str | None,
    _option(
        "Goal", "--known-accuracy", metavar="SHARE", help="Accuracy of the reference, such as 76%, to judge without labels."
    ),
]
Confidence = Annotated[
    float | None, _option("Goal", "--confidence", metavar="SHARE", help="Of each statement that is tested, such as 0.95.")
]
Inconclusive = Annotated[
    Literal["accept", "reject"] | None,
    _option("Goal", "--inconclusive", help="What to do when there are too few samples to tell."),
]
Limits = Annotated[
    list[str] | None,
    _option("Goal", "--limit", metavar="TEXT", help="A limit, such as 'p99: +5%' or 'size: 0'; repeat for several."),
]
Slices = Annotated[
    list[str] | None,
    _option("Goal", "--slice", metavar="NAME", help="Column to judge value by value; label for the classes. Repeat."),
]
SliceTolerances = Annotated[
    list[str] | None,
    _option("Goal", "--slice-tolerance", metavar="TEXT", help="What a slice may lose: 2%, or 'language=de: 5%'. Repeat."),
]
StrictSlices = Annotated[
    bool | None,
    _option("Goal", "--strict-slices", help="A slice with too few samples to tell makes the gate inconclusive."),
]

# --- traffic ------------------------------------------------------------------------------------------------------------

Rate = Annotated[float | None, _option("Traffic", "--rate", metavar="NUMBER", help="Requests per second to hold.")]
P99 = Annotated[
    str | None,
    _option("Traffic", "--p99", metavar="TIME", help="99th percentile of the latency to hold, such as 100ms."),
]
Arrivals = Annotated[
    str | None,
    _option(
        "Traffic", "--arrivals", metavar="KIND", default="poisson",
        help="poisson, constant, bursty, or a file with one timestamp in seconds on each line.",
    ),
]  # fmt: skip
Spare = Annotated[
    int | None,
    _option("Traffic", "--spare", metavar="N", default="1", help="Replicas that may be lost while the rest holds."),
]
Utilization = Annotated[
    float | None,
    _option(
        "Traffic", "--utilization", metavar="SHARE", default="0.8",
        help="Highest share of the capacity to plan with.",
    ),
]  # fmt: skip
Daily = Annotated[
    str | None,
    _option("Traffic", "--daily", metavar="LIST", help="Requests per second in each of 24 hours, with commas, or a file."),
]
Balancer = Annotated[
    Literal["random", "round-robin", "least-loaded"],
    _option("Traffic", "--balancer", default="random", help="How requests are spread."),
]

# --- search and measuring -----------------------------------------------------------------------------------------------

Candidates = Annotated[
    list[str] | None,
    _option("Search", "--candidate", metavar="PATTERN", help="Candidates to look at, such as '*int8*'; repeat for several."),
]
MaxBatch = Annotated[int | None, _option("Search", "--max-batch", metavar="N", help="Largest batch size to measure.")]
Threads = Annotated[
    int | None,
    _option("Search", "--threads", metavar="N", default="all cores", help="Threads for one inference."),
]
Effort = Annotated[
    Literal["quick", "standard", "thorough"] | None,
    _option("Search", "--effort", help="How much is tried, and how long; --dry-run says how long."),
]
TimeBudget = Annotated[
    str | None,
    _option("Search", "--time-budget", metavar="TIME", help="Time for searching, or for measuring speed, such as 20m."),
]
Memory = Annotated[
    str | None,
    _option("Search", "--memory", metavar="SIZE", help="What a pass, or the open sessions, may take, such as 16GB."),
]
BatchSizes = Annotated[str | None, _option("Search", "--batch-sizes", metavar="N,N", help="Batch sizes to time, such as 1,8.")]
Batch = Annotated[int, _option("Search", "--batch", metavar="N", min=1, max=4096, default="1", help="Batch size to time at.")]
Effects = Annotated[
    int,
    _option(
        "Search", "--effects", metavar="N", min=0, default="0", help="The metric with each of the N noisiest layers alone."
    ),
]  # fmt: skip
NoSpeed = Annotated[bool, _option("Search", "--no-speed", help="Measure no speed and no memory.")]
Cores = Annotated[
    int | None,
    _option(
        "Search", "--cores", metavar="N", min=1, default="all",
        help="Cores of the replica, or of the load generator with --server.",
    ),
]  # fmt: skip
Duration = Annotated[str, _option("Search", "--duration", metavar="TIME", default="10s", help="Length of one load test.")]

# --- language models ----------------------------------------------------------------------------------------------------

Context = Annotated[
    int | None,
    _option("Language models", "--context", metavar="N", help="Tokens of prompt and answer together; default: 2048 at most."),
]
Choices = Annotated[
    str | None,
    _option("Language models", "--choices", metavar="FILE", help="JSON Lines of questions with choices to answer as well."),
]
KvCache = Annotated[
    Literal["fp8", "int8"] | None,
    _option("Language models", "--kv-cache", help="Type of the cache, where a runtime and a format have it."),
]
Bits = Annotated[
    float | None,
    _option("Language models", "--bits", metavar="NUMBER", help="Average bits of a weight to reach with mixed widths."),
]

# --- a server -----------------------------------------------------------------------------------------------------------

Server = Annotated[
    str | None,
    _option(
        "Server", "--server", metavar="URL", help="A running server, or the name of a serving system to start on its files."
    ),
]
Protocol = Annotated[
    Literal["kserve-http", "kserve-grpc", "bentoml", "invocations", "instances"] | None,
    _option("Server", "--protocol", default="found out", help="What the server speaks."),
]
ServedModel = Annotated[
    str | None,
    _option(
        "Server", "--model", metavar="NAME", default="the artifact's",
        help="Name of the model on the server, or the route.",
    ),
]  # fmt: skip
Headers = Annotated[
    list[str] | None,
    _option("Server", "--header", metavar="TEXT", help="Header to send, such as 'Authorization: Bearer TOKEN'. Repeat."),
]
Timeout = Annotated[
    str | None,
    _option(
        "Server", "--timeout", metavar="TIME", default="10s",
        help="A request without an answer after this time has failed.",
    ),
]  # fmt: skip
Predict = Annotated[
    bool | None,
    _option(
        "Server", "--predict/--no-predict", default="--predict",
        help="Probe the idle server first, and predict each test from it.",
    ),
]  # fmt: skip

# --- machines -----------------------------------------------------------------------------------------------------------

Compare = Annotated[
    list[str] | None,
    _option(
        "Machines", "--compare", metavar="PATTERN", default="all",
        help="Machines to compare, such as 'aws-*'; repeat for several.",
    ),
]  # fmt: skip
ThisMachine = Annotated[
    str | None, _option("Machines", "--this-machine", metavar="TARGET", help="The target that this machine is, for its price.")
]
Price = Annotated[float | None, _option("Machines", "--price", metavar="USD", help="Price of this machine in USD per hour.")]
MaxCost = Annotated[float | None, _option("Machines", "--max-cost", metavar="USD", help="Most USD that a month may cost.")]

# --- output -------------------------------------------------------------------------------------------------------------

Name = Annotated[str | None, _option("Output", "--name", metavar="NAME", help="Name of the model in the artifact.")]
Serve = Annotated[
    list[str] | None,
    _option("Output", "--serve", metavar="NAME", help="Serving system to judge and write files for; repeat for several."),
]
JudgeAgain = Annotated[
    bool, _option("Output", "--judge-again", help="Where it would be served otherwise, judge it again as it is served.")
]
Force = Annotated[bool, _option("Output", "--force", help="Replace what is there.")]
DryRun = Annotated[bool, _option("Output", "--dry-run", help="Print the plan and stop.")]
State = Annotated[
    Path | None,
    _option("Output", "--state", metavar="FILE", help="Keep the looks in this file, so that each adds to those before."),
]
Prometheus = Annotated[
    Path | None,
    _option("Output", "--prometheus", metavar="FILE", help="Metrics for the textfile collector of the node exporter."),
]
AllRows = Annotated[bool, _option("Output", "--all", help="Show every candidate, with the whole reason why it lost.")]
Junit = Annotated[Path | None, _option("Output", "--junit", metavar="PATH", help="JUnit XML for the CI system.")]
Markdown = Annotated[
    Path | None, _option("Output", "--markdown", metavar="PATH", help="Summary for a comment on the merge request.")
]
Top = Annotated[int, _option("Output", "--top", metavar="N", min=1, default="20", help="Layers to show; --json has all.")]
Schema = Annotated[bool, _option("Output", "--schema", help="Print the JSON schema of a recipe instead.")]
AsJson = Annotated[bool, _option("Output", "--json", help="Print JSON for programs.")]
Quiet = Annotated[bool, _option("Output", "--quiet", "-q", help="No progress.")]


def out_option(default: str) -> Any:
    """The option ``--out`` of a command that writes to ``default`` without it."""
    return _option("Output", "--out", metavar="PATH", default=default, help="File or folder to write.")


# --- the rest -----------------------------------------------------------------------------------------------------------

RecipeFile = Annotated[Path | None, _option("Options", "--recipe", metavar="PATH", help="Recipe to read.")]
TrustPickle = Annotated[bool | None, _option("Options", "--trust-pickle", help="Run the code inside a pickled model.")]
Clear = Annotated[bool, _option("Options", "--clear", help="Remove everything in it. Artifacts are not touched.")]
