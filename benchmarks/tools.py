"""How each tool makes its model out of the same ONNX file and the same samples.

Each function writes ``model.onnx`` or ``model.xml`` into folders of its own and returns them as variants, of which the
faster one competes. All run in a child process.
"""

from __future__ import annotations

__all__ = ["PEERS", "REFERENCE", "TOOLS", "TUNERS", "Job", "Variant", "make"]

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

REFERENCE = "ONNX Runtime FP32"
CALIBRATION = 128
"""Samples that every tool that calibrates is given."""
VALIDATION = 300
"""Samples on which those who tune judge what they tried."""
OLIVE_SECONDS = 300.0
OPSET = 17
"""What models below opset 13 are raised to, because per-channel DequantizeLinear came with 13."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What a tool is given.

    Attributes:
        name: Of the model.
        onnx: The FP32 model.
        source: The first argument of ``mopt build``.
        data: Its ``--data``.
        metric: Its ``--metric``; empty where it is left to mopt.
        recipe: Further keys of its recipe.
        feeds: Folder with calibration feeds, one ``.npz`` each, batch axis of length 1.
        shapes: Shape of each input by batch size.
        threads: For everyone.
        isa: Instruction set extensions of this machine.
        olive: Python of Olive's environment, or None.
        score: How answers are judged, by those who tune for it.
        neural_compressor: Python of an environment with onnx-neural-compressor, or None.
        keep: Share of the FP32 score that those who tune have to keep.
    """

    name: str
    onnx: str
    source: str
    data: str
    metric: str
    recipe: dict[str, Any]
    feeds: str
    shapes: dict[int, dict[str, list[int]]]
    threads: int
    isa: tuple[str, ...]
    olive: str | None
    score: str = "fidelity"
    neural_compressor: str | None = None
    keep: float = 0.99

    @property
    def vnni(self) -> bool:
        """Whether the CPU multiplies 8-bit integers without saturating."""
        return any(feature in self.isa for feature in ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"))

    @property
    def bf16(self) -> bool:
        """Whether the CPU computes in BF16."""
        return any(feature in self.isa for feature in ("avx512_bf16", "amx_bf16", "bf16"))


@dataclasses.dataclass(frozen=True)
class Variant:
    """A model that can compete, ``folder/model.onnx`` or ``folder/model.xml``; ``batch`` where its shapes are fixed."""

    name: str
    folder: str
    runtime: str
    fields: dict[str, Any]
    batch: int | None = None


class SkippedError(Exception):
    """The tool cannot take part here; the message says why."""


def make(name: str, job: Job, folder: str) -> dict[str, Any]:
    """Run a tool's tool; return its variants, or the reason that there are none, and the seconds it took."""
    home = Path(folder)
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    start = time.perf_counter()
    try:
        variants = (TOOLS | TUNERS)[name](job, home)
    except SkippedError as reason:
        return {"variants": [], "error": f"skipped: {reason}", "seconds": 0.0}
    except Exception as error:  # noqa: BLE001 -- whatever a peer does wrong is its row in the table
        return {"variants": [], "error": _brief(error), "seconds": time.perf_counter() - start}
    return {
        "variants": [dataclasses.asdict(variant) for variant in variants],
        "error": "",
        "seconds": time.perf_counter() - start,
    }


def _brief(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[-300:] if isinstance(error, RuntimeError) else text[:300]}"


def _ort(folder: Path, job: Job) -> list[Variant]:
    return [Variant("", str(folder), "onnxruntime", {"threads": job.threads})]


def _target(home: Path) -> str:
    """Return the file that a tool shall write, in a folder with nothing else in it."""
    (home / "model").mkdir()
    return str(home / "model" / "model.onnx")


def _feeds(job: Job) -> list[dict[str, np.ndarray]]:
    feeds = []
    for path in sorted(Path(job.feeds).glob("*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            feeds.append({name: arrays[name] for name in arrays.files})
    return feeds


def _reader(job: Job) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter(_feeds(job))

        def get_next(self) -> Any:
            return next(self.feeds, None)

    return Reader()


def _copy(source: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, folder / "model.onnx")
    for path in source.parent.glob(f"{source.name}.data"):
        os.link(path, folder / path.name)


def ort_fp32(job: Job, home: Path) -> list[Variant]:
    """The model as it is."""
    _copy(Path(job.onnx), home / "model")
    return _ort(home / "model", job)


def ort_static_defaults(job: Job, home: Path) -> list[Variant]:
    """``quantize_static`` with nothing but a data reader."""
    from onnxruntime.quantization import quantize_static

    quantize_static(job.onnx, _target(home), _reader(job))
    return _ort(home / "model", job)


def ort_static_good(job: Job, home: Path) -> list[Variant]:
    """Preprocessed, QDQ, U8S8 per channel, reduced range without VNNI; transformers only at their constant MatMuls."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    source = _preprocessed(_raised(Path(job.onnx), home), home)
    options: dict[str, Any] = {
        "quant_format": QuantFormat.QDQ,
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
        "per_channel": True,
        "reduce_range": not job.vnni,
    }
    extra: dict[str, Any] = {}
    if _is_transformer(source):
        options["op_types_to_quantize"] = ["MatMul", "Gemm"]
        extra["MatMulConstBOnly"] = True
    target = _target(home)
    try:
        quantize_static(str(source), target, _reader(job), **options, extra_options=extra)
    except ValueError:
        extra["QDQDisableWeightAdjustForInt32Bias"] = True
        quantize_static(str(source), target, _reader(job), **options, extra_options=extra)
    return _ort(home / "model", job)


def ort_dynamic(job: Job, home: Path) -> list[Variant]:
    """``quantize_dynamic``, S8 per channel, on the preprocessed model without its stale value_info."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    source = _preprocessed(Path(job.onnx), home)
    model = onnx.load(str(source))
    del model.graph.value_info[:]
    stripped = home / "stripped.onnx"
    onnx.save(model, str(stripped))
    target = _target(home)
    quantize_dynamic(str(stripped), target, weight_type=QuantType.QInt8, per_channel=True, reduce_range=not job.vnni)
    return _ort(home / "model", job)


def _raised(source: Path, home: Path) -> Path:
    import onnx
    from onnx import version_converter

    model = onnx.load(str(source))
    if next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")) >= 13:
        return source
    raised = home / "raised.onnx"
    onnx.save(version_converter.convert_version(model, OPSET), str(raised))
    return raised


def _preprocessed(source: Path, home: Path) -> Path:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    target = home / "preprocessed.onnx"
    try:
        quant_pre_process(str(source), str(target))
    except Exception:  # noqa: BLE001 -- its symbolic shape inference gives up on some models, and says so in many ways
        quant_pre_process(str(source), str(target), skip_symbolic_shape=True)
    return target


def _is_transformer(path: Path) -> bool:
    import onnx

    kinds = [node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node]
    return "Softmax" in kinds and kinds.count("MatMul") > 10 and "Conv" not in kinds


def _openvino_variants(model: Any, job: Job, home: Path, precision: str) -> list[Variant]:
    """Save a model with dynamic shapes, and one for each batch size with static shapes."""
    import openvino

    fields = {"threads": job.threads, "precision": precision}
    shapes: list[tuple[str, int | None]] = [("dynamic shapes", None)]
    shapes += [(f"static shapes, batch {batch}", batch) for batch in job.shapes]
    variants = []
    for name, batch in shapes:
        copy = model.clone()
        if batch is not None:
            copy.reshape({port.get_any_name(): job.shapes[batch][port.get_any_name()] for port in copy.inputs})
        folder = home / (f"static-{batch}" if batch else "dynamic")
        folder.mkdir()
        openvino.save_model(copy, folder / "model.xml", compress_to_fp16=False)
        variants.append(Variant(name, str(folder), "openvino", fields, batch))
    return variants


def openvino_fp32(job: Job, home: Path) -> list[Variant]:
    """Converted, computed in FP32."""
    import openvino

    return _openvino_variants(openvino.convert_model(job.onnx), job, home, "f32")


def openvino_bf16(job: Job, home: Path) -> list[Variant]:
    """Converted, computed in BF16."""
    import openvino

    if not job.bf16:
        raise SkippedError("this CPU has no BF16")
    return _openvino_variants(openvino.convert_model(job.onnx), job, home, "bf16")


def openvino_nncf(job: Job, home: Path) -> list[Variant]:
    """NNCF post-training INT8 with the preset and the model type that its documentation advises."""
    import nncf
    import openvino

    model = openvino.convert_model(job.onnx)
    transformer = _is_transformer(Path(job.onnx))
    quantized = nncf.quantize(
        model,
        nncf.Dataset(_feeds(job)),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER if transformer else None,
        subset_size=CALIBRATION,
    )
    return _openvino_variants(quantized, job, home, "f32")


def _olive_python(job: Job) -> Path:
    if job.olive is None or not Path(job.olive).exists():
        raise SkippedError("no environment with Olive: see --olive-python")
    return Path(job.olive)


def _run(command: Sequence[str], seconds: float, home: Path) -> str:
    environment = {**os.environ, "OLIVE_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        list(command), capture_output=True, text=True, timeout=seconds, check=False, cwd=home, env=environment
    )
    (home / "log.txt").write_text(done.stdout + done.stderr)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise RuntimeError(f"exit code {done.returncode}: {lines[-1] if lines else ''}")
    return done.stdout


def olive_api(job: Job, home: Path) -> list[Variant]:
    """Olive's Python interface: a search over its INT8 passes with the samples, judged by its own latency."""
    python = _olive_python(job)
    feeds = _feeds(job)
    np.savez(home / "feeds.npz", **{name: np.stack([feed[name] for feed in feeds]) for name in feeds[0]})
    script = Path(__file__).with_name("olive_recipe.py")
    _run([str(python), str(script), job.onnx, str(home / "feeds.npz"), str(home)], OLIVE_SECONDS, home)
    return _ort(home / "model", job)


def olive_command(job: Job, home: Path) -> list[Variant]:
    """Olive's ``auto-opt --precision int8``; its ``optimize`` wants a data set from the network for INT8."""
    program = _olive_python(job).with_name("olive")
    options = ["--device", "cpu", "--provider", "CPUExecutionProvider", "--precision", "int8", "--disable_telemetry"]
    _run([str(program), "auto-opt", "-m", job.onnx, "-o", str(home / "model"), *options], OLIVE_SECONDS, home)
    if not (home / "model" / "model.onnx").exists():
        raise RuntimeError("it ended with exit code 0 and wrote no model")
    return _ort(home / "model", job)


class _Validation:
    """Scores answers on samples that nobody calibrated with, and counts how often."""

    def __init__(self, job: Job) -> None:
        import onnxruntime

        from tests.models import load_samples

        self._job = job
        self._samples = load_samples(job.data)[CALIBRATION : CALIBRATION + VALIDATION]
        session = onnxruntime.InferenceSession(job.onnx, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in session.get_outputs()]
        self._reference = [dict(zip(self._names, session.run(None, feed), strict=True)) for feed, _ in self._samples]
        self.count = 0

    def __call__(self, run: Callable[[dict[str, np.ndarray]], Sequence[np.ndarray]]) -> float:
        from benchmarks.scores import score

        self.count += 1
        outputs = [dict(zip(self._names, run(feed), strict=True)) for feed, _ in self._samples]
        labels = [label for _, label in self._samples]
        return score(self._job.score, outputs, labels, self._reference, Path(self._job.onnx))


def nncf_accuracy_control(job: Job, home: Path) -> list[Variant]:
    """NNCF INT8 that reverts operators to float until enough of the score is kept."""
    import nncf
    import openvino

    validation = _Validation(job)

    def validate(compiled: Any, _: Any) -> tuple[float, None]:
        return validation(lambda feed: list(compiled(feed).values())), None

    model = openvino.convert_model(job.onnx)
    quantized = nncf.quantize_with_accuracy_control(
        model,
        nncf.Dataset(_feeds(job)),
        nncf.Dataset([0]),  # validate has the samples itself
        validation_fn=validate,
        max_drop=1 - job.keep,
        drop_type=nncf.DropType.RELATIVE,
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER if _is_transformer(Path(job.onnx)) else None,
        subset_size=CALIBRATION,
    )
    told = f"{validation.count} evaluations"
    return [dataclasses.replace(one, name=f"{one.name}, {told}") for one in _openvino_variants(quantized, job, home, "f32")]


def neural_compressor(job: Job, home: Path) -> list[Variant]:
    """Intel Neural Compressor's tuning for ONNX, in its own environment; it tries one configuration after the other."""
    if job.neural_compressor is None:
        raise SkippedError("no environment with onnx-neural-compressor: see --neural-compressor-python")
    from tests.models import load_samples

    samples = load_samples(job.data)[CALIBRATION : CALIBRATION + VALIDATION]
    folder = home / "validation"
    folder.mkdir(parents=True)
    for index, (feed, _) in enumerate(samples):
        np.savez(folder / f"{index:04d}.npz", **feed)
    (folder / "labels.json").write_text(
        json.dumps([label.tolist() if hasattr(label, "tolist") else label for _, label in samples])
    )
    raised = _raised(Path(job.onnx), home)
    script = Path(__file__).with_name("neural_compressor_tuning.py")
    arguments = [str(raised), job.feeds, str(folder), job.score, job.onnx, str(home / "model"), str(1 - job.keep)]
    _run([job.neural_compressor, str(script), *arguments], 1500, home)
    told = f"{(home / 'log.txt').read_text().count('Evaluation result')} evaluations"
    if not (home / "model" / "model.onnx").exists():
        raise RuntimeError(f"no configuration keeps {job.keep:.2%}, after {told}")
    return [dataclasses.replace(one, name=f"{one.name}, {told}") for one in _ort(home / "model", job)]


def mopt_mixed(job: Job, home: Path) -> list[Variant]:
    """``mopt build`` with its INT8 candidates alone."""
    tuned = {"search": {"candidates": ["*int8*"]}, "tolerance": f"{100 * (1 - job.keep):g}%"}
    job = dataclasses.replace(job, recipe={**job.recipe, **tuned})
    (found,) = mopt_build(job, home)
    manifest = json.loads((home / "artifact" / "manifest.json").read_text())
    trials = [trial for trial in manifest["trials"] if "-mixed" in trial["name"]]
    (chosen,) = (trial for trial in manifest["trials"] if trial["name"] == manifest["chosen"])
    kept = len(chosen["passes"][-1]["fields"].get("float_nodes", ())) if chosen["passes"] else 0
    return [dataclasses.replace(found, name=f"{found.name}, {len(trials)} evaluations of mixed ones, {kept} in float")]


def mopt_build(job: Job, home: Path) -> list[Variant]:
    """``mopt build``, as a user would run it; its cache is its own and starts empty."""
    command = [
        sys.executable,
        "-m",
        "mopt",
        "build",
        job.source,
        "--data",
        job.data,
        *(["--metric", job.metric] if job.metric else []),
    ]
    command += ["--out", str(home / "artifact"), "--threads", str(job.threads), "--name", job.name, "--json", "--quiet"]
    if job.recipe:
        (home / "mopt.toml").write_text("".join(f"{key} = {_toml(value)}\n" for key, value in job.recipe.items()))
        command += ["--recipe", str(home / "mopt.toml")]
    environment = {**os.environ, "MOPT_CACHE": str(home / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False, env=environment)
    (home / "log.txt").write_text(done.stdout + done.stderr)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {' '.join(done.stderr.split())}")
    manifest = json.loads((home / "artifact" / "manifest.json").read_text())
    shutil.rmtree(home / "cache", ignore_errors=True)
    return [Variant(manifest["chosen"], str(home / "artifact" / "model"), manifest["runtime"], manifest["runtime_fields"])]


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


TOOLS: dict[str, Callable[[Job, Path], list[Variant]]] = {
    REFERENCE: ort_fp32,
    "ORT static, defaults": ort_static_defaults,
    "ORT static, good recipe": ort_static_good,
    "ORT dynamic": ort_dynamic,
    "OpenVINO FP32": openvino_fp32,
    "OpenVINO BF16": openvino_bf16,
    "OpenVINO + NNCF INT8": openvino_nncf,
    "Olive, Python": olive_api,
    "Olive, command line": olive_command,
    "mopt": mopt_build,
}
"""By the name of the row."""
TUNERS: dict[str, Callable[[Job, Path], list[Variant]]] = {
    REFERENCE: ort_fp32,
    "ORT static, good recipe": ort_static_good,
    "OpenVINO + NNCF INT8": openvino_nncf,
    "NNCF accuracy control": nncf_accuracy_control,
    "Neural Compressor tuning": neural_compressor,
    "mopt, INT8 alone": mopt_mixed,
}
"""Those who give up as little precision as they must."""
PEERS = tuple(name for name in TOOLS if name != "mopt")
