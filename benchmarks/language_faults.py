"""Who notices a broken language model? Each fault is planted in good files, which then are loaded by the real runtimes.

    python -m benchmarks.language_faults MODEL... --train FOLDER --heldout FOLDER

Three witnesses look at each: the weights on disk, beside the source's; what the runtime's tokenizer and chat template make of
golden texts, beside the source's; and the log loss on held-out text, beside that of the good files. A fault that none of them
sees fails the run, and so do good files that one of them takes for broken.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.language_scoring import Setting, common, prepare
from mopt.datasets.windows import ScoredWindows
from mopt.errors import MoptError
from mopt.evaluators.language.companions import Answers, answers_of, differences, special_texts
from mopt.evaluators.language.log_loss import token_rows
from mopt.model.files import Model
from mopt.model.weight_checks import check_weights
from mopt.passes._base import Pass
from mopt.passes.language.export_awq import ExportAWQ
from mopt.passes.language.export_compressed_tensors import ExportCompressedTensors
from mopt.passes.language.export_gguf import ExportGguf
from mopt.passes.language.export_gptq import ExportGPTQ
from mopt.passes.language.quantize_gguf import QuantizeGguf
from mopt.passes.language.quantize_rtn import QuantizeRTN
from mopt.runtimes.language._base import LanguageProcess, LanguageRuntime
from mopt.runtimes.language.llama_cpp import LlamaCpp
from mopt.runtimes.language.transformers import Transformers
from mopt.runtimes.language.vllm import Vllm
from mopt.search.compile import compile_passes
from mopt.system.forkserver import forking
from tests.language_faults import FAULTS, plant

GOOD = "nothing"
ALLOWED = 0.01
"""Nats per token: 1 % of the perplexity."""


@dataclasses.dataclass(frozen=True)
class Look:
    """What a runtime makes of a model.

    Attributes:
        companions: What its tokenizer and its chat template make of golden texts.
        loss: Of each scored token, shape [tokens].
    """

    companions: Answers
    loss: np.ndarray


def main() -> None:
    """Print who noticed what; leave with 1 when something went unnoticed."""
    parser = common(__doc__)
    parser.add_argument("--packings", nargs="+", choices=("gguf", "compressed-tensors", "gptq", "awq"), default=["gguf"])
    parser.add_argument("--group", type=int, default=64, help="inputs that share a scale, where it is not gguf")
    arguments = parser.parse_args()
    print("| model | packing | planted | noticed by |\n|---|---|---|---|")
    wrong = 0
    with forking(), tempfile.TemporaryDirectory() as scratch:
        for folder in arguments.models:
            setting = prepare(folder, arguments)
            source = _look(
                Transformers(threads=arguments.threads, context=setting.context),
                setting.source,
                setting.windows,
                *_start(setting),
            )
            for packing in arguments.packings:
                passes, runtime = _packed(packing, setting, arguments.group)
                good = compile_passes(passes, setting.source, setting.store).model
                for fault, witnesses in _witnesses(setting, source, good, runtime, Path(scratch)):
                    wrong += bool(witnesses) != (fault != GOOD)
                    print(f"| {folder.name} | {packing} | {fault} | {'; '.join(witnesses) or 'nobody'} |", flush=True)
    sys.exit(bool(wrong))


def _packed(packing: str, setting: Setting, group: int) -> tuple[list[Pass], LanguageRuntime]:
    if packing == "gguf":
        return [ExportGguf(), QuantizeGguf(type="q4_k_m")], LlamaCpp(threads=setting.threads, context=setting.context)
    exports: dict[str, Pass] = {"compressed-tensors": ExportCompressedTensors(), "gptq": ExportGPTQ(), "awq": ExportAWQ()}
    quantize = QuantizeRTN(group_size=group, symmetric=packing != "awq")
    return [quantize, exports[packing]], Vllm(threads=setting.threads, context=setting.context)


def _witnesses(
    setting: Setting, source: Look, good: Model, runtime: LanguageRuntime, scratch: Path
) -> Iterator[tuple[str, list[str]]]:
    """Yield each fault and who noticed it, the good files first."""
    baseline = _look(runtime, good, setting.windows, *_start(setting))
    yield GOOD, _noticed(setting, source, baseline, baseline, good)
    for fault in FAULTS:
        with tempfile.TemporaryDirectory(dir=scratch) as place:
            broken = Model.at(good.format, plant(fault, good.folder, Path(place) / "broken"))
            try:
                yield (
                    fault,
                    _noticed(setting, source, baseline, _look(runtime, broken, setting.windows, *_start(setting)), broken),
                )
            except MoptError as error:
                yield fault, [f"the runtime ({' '.join(error.message.split())[:80]})"]


def _noticed(setting: Setting, source: Look, baseline: Look, look: Look, model: Model) -> list[str]:
    witnesses: list[str] = []
    if model.format == "huggingface" and (wrong := check_weights(setting.source.folder, model.folder)):
        witnesses.append(f"the weights ({len(wrong)} problems)")
    if problems := differences(source.companions, look.companions):
        witnesses.append(f"tokenizer and template ({problems[0][:60]})")
    if (more := float((look.loss - baseline.loss).mean())) > ALLOWED:
        witnesses.append(f"the text ({more:+.3f} nats)")
    return witnesses


def _look(runtime: LanguageRuntime, model: Model, windows: ScoredWindows, bos: int | None, special: tuple[str, ...]) -> Look:
    with LanguageProcess(runtime, model) as process:
        scores = [each for window in windows.windows for each in process.score([window], 1)]
        return Look(
            companions=answers_of(process, special=special, bos=bos),
            loss=token_rows(scores, windows)[:, 0],
        )


def _start(setting: Setting) -> tuple[int | None, tuple[str, ...]]:
    """Return the start token, and special tokens as text."""
    token = setting.checkpoint.text_config.get("bos_token_id")
    return (token if isinstance(token, int) else None), special_texts(setting.source.folder)


if __name__ == "__main__":
    main()
