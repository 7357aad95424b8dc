"""What 4 bits cost: mopt's own choice beside llama.cpp's mixtures, GPTQ, AWQ, AutoRound and plain rounding, on the same text.

    python -m benchmarks.language_quality MODEL... --train FOLDER --heldout FOLDER

All of them calibrate on the same windows and are scored on the same held-out ones, each in the runtime that serves it. Bits are
those of all that is stored, scales and zero points with it, once over all parameters and once without embedding and output
layer, which some formats leave in 16 bits. A method is beaten by another one with as many bits of its layers or fewer and a
lower log loss on the same tokens; the difference has an interval over documents.
"""

from __future__ import annotations

import dataclasses
import datetime
import fnmatch
from collections.abc import Iterator, Sequence

from benchmarks.language_scoring import Row, Setting, common, judge, markdown, prepare, reference_row, write_page, write_rows
from mopt.passes._base import Pass
from mopt.passes.language.export_compressed_tensors import ExportCompressedTensors
from mopt.passes.language.export_gguf import ExportGguf
from mopt.passes.language.export_gguf_codes import ExportGgufCodes
from mopt.passes.language.observe_imatrix import ObserveImatrix
from mopt.passes.language.quantize_autoround import QuantizeAutoRound
from mopt.passes.language.quantize_awq import QuantizeAWQ
from mopt.passes.language.quantize_gguf import QuantizeGguf
from mopt.passes.language.quantize_gptq import QuantizeGPTQ
from mopt.passes.language.quantize_rtn import QuantizeRTN
from mopt.runtimes.language._base import LanguageRuntime
from mopt.runtimes.language.llama_cpp import LlamaCpp
from mopt.runtimes.language.vllm import Vllm
from mopt.system.forkserver import forking

TYPES = ("q4_k_m", "q4_k_s", "q4_0", "iq4_xs")


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to 4 bits."""

    name: str
    passes: tuple[Pass, ...]
    runtime: LanguageRuntime


def methods(setting: Setting, groups: Sequence[int]) -> Iterator[Method]:
    """Yield all of them: llama.cpp's first."""
    llama = LlamaCpp(threads=setting.threads, context=setting.context)
    plain, windows = ExportGguf(), setting.calibration
    for kind in TYPES:
        yield Method(f"llama.cpp {kind.upper()}", (plain, QuantizeGguf(type=kind)), llama)
        yield Method(
            f"llama.cpp {kind.upper()}, imatrix", (plain, ObserveImatrix(windows=windows), QuantizeGguf(type=kind)), llama
        )
    blocks: dict[str, Pass] = {
        "GPTQ": QuantizeGPTQ(windows=windows, group_size=32),
        "AutoRound": QuantizeAutoRound(windows=windows, group_size=32),
    }
    for name, quantizer in blocks.items():
        yield Method(f"{name} in Q4_0 of llama.cpp", (quantizer, ExportGgufCodes(), QuantizeGguf(type="q4_0")), llama)
    vllm = Vllm(threads=setting.threads, context=setting.context)
    for group in groups:
        quantizers: dict[str, Pass] = {
            "RTN, plain": QuantizeRTN(group_size=group, search=False),
            "RTN, scales searched": QuantizeRTN(group_size=group),
            "GPTQ": QuantizeGPTQ(windows=windows, group_size=group),
            "AWQ": QuantizeAWQ(windows=windows, group_size=group),
            "AWQ and GPTQ": QuantizeGPTQ(windows=windows, group_size=group, awq=True),
            "AutoRound": QuantizeAutoRound(windows=windows, group_size=group),
        }
        for name, quantizer in quantizers.items():
            yield Method(f"{name}, groups of {group}", (quantizer, ExportCompressedTensors()), vllm)


def main() -> None:
    """Print the tables, the best first."""
    parser = common(__doc__)
    parser.add_argument("--methods", nargs="+", default=["*"], help="patterns of their names, such as '*128' or 'llama.cpp*'")
    parser.add_argument("--groups", nargs="+", type=int, default=[128, 32], help="inputs that share a scale, outside of GGUF")
    arguments = parser.parse_args()
    rows: dict[str, list[Row]] = {}
    sections = []
    with forking():
        for model in arguments.models:
            setting = prepare(model, arguments)
            listed = []
            for method in methods(setting, arguments.groups):
                if not any(fnmatch.fnmatchcase(method.name, pattern) for pattern in arguments.methods):
                    continue
                listed.append(judge(setting, method.name, method.passes, method.runtime))
                print(markdown(listed[-1:]).splitlines()[-1], flush=True)
            listed.sort(key=lambda row: (bool(row.failure), row.loss[0]))
            rows[model.name] = [reference_row(setting), *listed]
            sections.append(f"## {model.name}\n\n{markdown(rows[model.name])}\n\n{_best(listed)}")
    command = f"python -m benchmarks.language_quality {' '.join(model.name for model in arguments.models)}"
    write_page(arguments.page, "Language models at 4 bits", command, sections, datetime.date.today().isoformat())
    write_rows(arguments.json, rows)


def _best(rows: list[Row]) -> str:
    """Say which methods no other one beats at as many bits or fewer."""
    judged = [row for row in rows if not row.failure and row.layer_bits is not None]
    front = [row for row in judged if not any(_bits(rival) <= _bits(row) and rival.loss[0] < row.loss[0] for rival in judged)]
    names = "; ".join(f"{row.name} ({_bits(row):.2f} bits, {row.loss[0]:+.4f})" for row in sorted(front, key=_bits))
    return f"Beaten by none at as many bits of the layers or fewer: {names}."


def _bits(row: Row) -> float:
    assert row.layer_bits is not None
    return row.layer_bits


if __name__ == "__main__":
    main()
