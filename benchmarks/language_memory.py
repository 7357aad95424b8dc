"""A language model larger than what may be in memory: quantized from disk, killed in the middle, and gone on with.

    python -m benchmarks.language_models big FOLDER
    python -m benchmarks.language_memory FOLDER/big --train TEXT --algorithm gptq --windows 16

The pass runs as a build runs it, in a child process; the memory of the whole family is sampled. When it has written half of the
blocks, all of the family is killed with SIGKILL; the same command then has to go on with what is on disk, and to end with the
same numbers as a run that nobody disturbed (``--whole`` compares with one). The memory is told beside one and a half times the
largest layer with the activations of the calibration text, once as it is and once less what the libraries take before they have
seen a model.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.commands import descendants, environment, proportional
from benchmarks.language_scoring import write_page
from mopt.datasets.documents import prepare_documents
from mopt.datasets.spec import DataSpec
from mopt.datasets.windows import calibration_windows
from mopt.model.checkpoint import Checkpoint, open_checkpoint
from mopt.model.files import Model
from mopt.model.quantization import Quantization
from mopt.model.tokens import TokenWindows, write_windows
from mopt.passes.language._blockwise import BlockwisePass
from mopt.passes.language.quantize_awq import QuantizeAWQ
from mopt.passes.language.quantize_gptq import QuantizeGPTQ
from mopt.passes.language.quantize_rtn import QuantizeRTN
from mopt.runtimes.language._base import LanguageProcess
from mopt.runtimes.language.transformers import Transformers
from mopt.search.compile import compile_passes
from mopt.system.environments import interpreter_of
from mopt.system.forkserver import forking
from mopt.system.store import Store

ALGORITHMS = ("rtn", "gptq", "awq")
FACTOR = 1.5
_INTERVAL = 0.1
_IMPORTS = "import resource, torch, transformers, mopt.passes.language._driver"
_PEAK = "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"


@dataclasses.dataclass(frozen=True)
class Watched:
    """A run of the pass.

    Attributes:
        peak: Bytes of the family, each shared page counted once, with pages of files.
        private: The same without pages of files.
        seconds: That it took.
        killed: Blocks that were on disk when it was killed; -1 for one that ended by itself.
    """

    peak: int
    private: int
    seconds: float
    killed: int = -1


def main() -> None:
    """Print the table; leave with 1 when the memory was exceeded or the run did not go on."""
    arguments = _arguments()
    if arguments.once:
        with forking():
            print(json.dumps(_quantize(arguments)))
        return
    checkpoint = open_checkpoint(arguments.model)
    shutil.rmtree(arguments.work / "runs", ignore_errors=True)
    windows = _windows(arguments)
    begun = _watch(arguments, "killed", kill_at=arguments.kill_at or _blocks(checkpoint) // 2)
    resumed = _watch(arguments, "killed")
    folder, kept = _made(arguments, "killed")
    runs = {"killed": begun, "gone on with": resumed}
    if arguments.whole:
        runs["undisturbed"] = _watch(arguments, "whole")
    equal = not arguments.whole or _equal(folder, _made(arguments, "whole")[0])
    section, held = _told(checkpoint, windows, runs, _libraries())
    section += f"\n\nIt went on with block {kept} of {_blocks(checkpoint)}."
    if arguments.whole:
        section += f" The numbers are {'the same as' if equal else 'NOT those'} of the undisturbed run."
    command = f"python -m benchmarks.language_memory --algorithm {arguments.algorithm} --windows {arguments.windows}"
    write_page(arguments.page, "A language model larger than memory", command, [section], datetime.date.today().isoformat())
    sys.exit(not (held and kept and equal))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a Hugging Face checkpoint")
    parser.add_argument("--train", type=Path, required=True, help="folder of documents to calibrate with")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/work/language_memory"))
    parser.add_argument("--algorithm", choices=ALGORITHMS, default="gptq")
    parser.add_argument("--windows", type=int, default=16, help="to calibrate with")
    parser.add_argument("--length", type=int, default=512, help="tokens of each")
    parser.add_argument("--kill-at", type=int, default=0, help="block; default: half of them")
    parser.add_argument("--whole", action="store_true", help="run it undisturbed too, and compare")
    parser.add_argument("--page", type=Path, help="Markdown file to write the table to")
    parser.add_argument("--once", metavar="RUN", help=argparse.SUPPRESS)
    return parser.parse_args()


def _windows(arguments: argparse.Namespace) -> TokenWindows:
    folder = arguments.work / "windows"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    documents = prepare_documents(DataSpec(path=str(arguments.train)), Path())
    source = Model.at("huggingface", arguments.model)
    with LanguageProcess(Transformers(threads=2, context=arguments.length), source) as process:
        windows = calibration_windows(documents.calibration, process.tokenize, length=arguments.length, count=arguments.windows)
    return write_windows(folder, windows)


def _step(arguments: argparse.Namespace) -> BlockwisePass:
    windows = TokenWindows.at(arguments.work / "windows")
    steps: dict[str, BlockwisePass] = {
        "rtn": QuantizeRTN(),
        "gptq": QuantizeGPTQ(windows=windows),
        "awq": QuantizeAWQ(windows=windows),
    }
    return steps[arguments.algorithm]


def _quantize(arguments: argparse.Namespace) -> dict[str, object]:
    store = Store(arguments.work / "runs" / arguments.once)
    compiled = compile_passes([_step(arguments)], Model.at("huggingface", arguments.model), store)
    return {"folder": str(compiled.model.folder), "kept": compiled.records[0].detail.get("kept_blocks", 0)}


def _watch(arguments: argparse.Namespace, run: str, kill_at: int = 0) -> Watched:
    """Run the pass in a process of its own, watched; kill the family when so many blocks are written."""
    command = [sys.executable, "-P", "-m", "benchmarks.language_memory", *sys.argv[1:], "--once", run]
    place, log = arguments.work / "runs" / run, arguments.work / f"{run}.log"
    place.mkdir(parents=True, exist_ok=True)
    start, peak, private = time.monotonic(), 0, 0
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=environment(arguments.work / "cache"))
        while process.poll() is None:
            family = descendants(process.pid)
            now = [proportional(pid) for pid in family]
            peak, private = max(peak, sum(whole for whole, _ in now)), max(private, sum(own for _, own in now))
            written = len(list(place.rglob("block-*.safetensors")))
            if kill_at and written >= kill_at:
                for pid in family:
                    os.kill(pid, signal.SIGKILL)
                process.wait()
                return Watched(peak, private, time.monotonic() - start, written)
            time.sleep(_INTERVAL)
    if process.returncode or kill_at:
        raise SystemExit(f"exit code {process.returncode}: {log.read_text(errors='replace')[-2000:]}")
    return Watched(peak, private, time.monotonic() - start)


def _made(arguments: argparse.Namespace, run: str) -> tuple[Path, int]:
    said = json.loads((arguments.work / f"{run}.log").read_text().splitlines()[-1])
    return Path(said["folder"]), int(said["kept"])


def _equal(first: Path, second: Path) -> bool:
    names = Quantization.read(first).tensors
    return names == Quantization.read(second).tensors and all(
        (first / file).read_bytes() == (second / file).read_bytes() for file in set(names.values())
    )


def _libraries() -> int:
    """Return the peak of a process that has imported what the pass needs, in bytes."""
    python = interpreter_of("llm_compressor")
    assert python is not None
    command = [str(python), "-c", f"{_IMPORTS}; {_PEAK}"]
    done = subprocess.run(command, env=environment(Path()), capture_output=True, text=True, check=True)
    return int(done.stdout)


def _blocks(checkpoint: Checkpoint) -> int:
    return int(checkpoint.text_config["num_hidden_layers"])


def _told(checkpoint: Checkpoint, windows: TokenWindows, runs: dict[str, Watched], libraries: int) -> tuple[str, bool]:
    sizes: dict[str, int] = {}
    for name, entry in checkpoint.tensors.items():
        parts = name.split(".layers.")
        block = parts[1].split(".")[0] if len(parts) == 2 else name
        sizes[block] = sizes.get(block, 0) + entry.size
    largest = max(sizes.values())
    activations = windows.count * windows.length * int(checkpoint.text_config["hidden_size"]) * 4
    allowed = FACTOR * largest + activations
    tokens = windows.count * windows.length
    text = (
        f"{checkpoint.size / 1e9:.2f} GB of weights in {_blocks(checkpoint)} blocks. The largest has {largest / 1e6:.0f} MB, "
        f"the activations of {tokens:,} tokens in float32 {activations / 1e6:.0f} MB: together, the layer {FACTOR} times, "
        f"{allowed / 1e6:.0f} MB. The libraries alone take {libraries / 1e6:.0f} MB."
    )
    lines = [
        text,
        "",
        "| run | peak, MB | without pages of files | less the libraries | of what is allowed | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name, run in runs.items():
        rest = run.private - libraries
        told = f"{name}, at block {run.killed}" if run.killed >= 0 else name
        figures = (
            f"{run.peak / 1e6:.0f} | {run.private / 1e6:.0f} | {rest / 1e6:.0f} | {rest / allowed:.2f} | {run.seconds:.0f}"
        )
        lines.append(f"| {told} | {figures} |")
    return "\n".join(lines), all(run.private - libraries <= allowed for run in runs.values())


if __name__ == "__main__":
    main()
