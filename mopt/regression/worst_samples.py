"""The samples on which a candidate loses the most, saved so that somebody can look at them."""

from __future__ import annotations

__all__ = ["largest_regressions", "sample_picture", "sample_text", "text_reader"]

import base64
import io
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.datasets.spec import DataSpec
from mopt.evaluators._metric import Metric
from mopt.evaluators.fidelity import cosine, looks_like_scores
from mopt.evaluators.inference import score
from mopt.model.samples import Samples, write_feed
from mopt.model.signature import Feed
from mopt.records.verdict import WorstSample
from mopt.regression.models import OutputRuns

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_SHOWN = 8
_LONGEST = 400
_PICTURE_SIDE = 160
_SMALLEST_SIDE, _LARGEST_SIDE = 8, 4096


def largest_regressions(
    metric: Metric, samples: Samples, candidate: OutputRuns, baseline: OutputRuns | None, spec: DataSpec, out: Path | None
) -> tuple[WorstSample, ...]:
    """Return the samples that lose the most of the metric; of equal ones, those whose outputs are furthest apart.

    Args:
        metric: Whose score decides, where it has one for each sample.
        samples: The inputs.
        candidate: What it answered.
        baseline: What the other side answered; without it nothing can be shown.
        spec: How the inputs were made, so that text can be read again.
        out: Folder to save them below; None to save nothing.
    """
    if baseline is None:
        return ()
    candidate_run, baseline_run = candidate.runs[0], baseline.runs[0]
    losses = _losses(metric, samples, candidate_run, baseline_run)
    distances = [_distance(output, of) for output, of in zip(candidate_run, baseline_run, strict=True)]
    order = sorted(range(len(samples)), key=lambda index: (losses[index], distances[index]), reverse=True)
    picked = [index for index in order if losses[index] > 0 or distances[index] > 0][:_SHOWN]
    labels, names = samples.labels, samples.names
    reader = text_reader(spec)
    regressions = []
    for rank, index in enumerate(picked):
        inputs, answers = samples[index], (candidate_run[index], baseline_run[index])
        name = names[index] if index < len(names) else str(index)
        folder = _save(out, rank, name, inputs, *answers) if out is not None else ""
        regressions.append(
            WorstSample(
                name=name, index=index, label="" if labels is None else _short(labels[index]), loss=losses[index],
                distance=distances[index], candidate=_answer(answers[0]), baseline=_answer(answers[1]), folder=folder,
                text=sample_text(inputs, spec, reader), picture=sample_picture(inputs, spec),
            )
        )  # fmt: skip
    return tuple(regressions)


def _losses(metric: Metric, samples: Samples, candidate_run: Samples, baseline_run: Samples) -> list[float]:
    scores = metric.scores(score(candidate_run, metric, samples, baseline_run))
    expected = metric.scores(score(baseline_run, metric, samples, baseline_run))
    if scores is None or expected is None:
        return [0.0] * len(samples)
    losses = (expected - scores) if metric.higher_is_better else (scores - expected)
    return [float(loss) + 0.0 for loss in losses]


def _distance(output: Feed, reference: Feed) -> float:
    """One less the lowest cosine of the floating-point outputs; 1 where another output differs."""
    distance = 0.0
    for name, value in reference.items():
        if value.dtype.kind == "f":
            distance = max(distance, 1 - cosine(output[name], value))
        elif output[name].shape != value.shape or not bool((output[name] == value).all()):
            distance = 1.0
    return distance if math.isfinite(distance) else 1.0


def _save(out: Path, rank: int, name: str, inputs: Feed, candidate_output: Feed, baseline_output: Feed) -> str:
    short = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[-60:] or "sample"
    folder = f"worst/{rank:02d}-{short}"
    (out / folder).mkdir(parents=True, exist_ok=True)
    for part, feed in (("inputs", inputs), ("candidate", candidate_output), ("baseline", baseline_output)):
        write_feed(out / folder / f"{part}.npz", feed)
    return folder


def _answer(outputs: Feed) -> str:
    """The class with its score, or the first values."""
    parts = []
    for name, value in outputs.items():
        if looks_like_scores(value, strict=False):
            best = int(value.argmax())
            parts.append(f"{name}: class {best} ({float(value.reshape(-1)[best]):.4g})")
        else:
            flat = value.reshape(-1)[:4].tolist()
            shown = ", ".join(f"{item:.4g}" if isinstance(item, float) else str(item) for item in flat)
            parts.append(f"{name}: {shown}{', …' if value.size > 4 else ''}")
    return _short("; ".join(parts))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def text_reader(spec: DataSpec) -> Any:
    """Return the tokenizer that the inputs were made with, or None."""
    if spec.text is None:
        return None
    import tokenizers

    return tokenizers.Tokenizer.from_file(spec.text.tokenizer)


def sample_text(inputs: Feed, spec: DataSpec, reader: Any) -> str:
    """The text that token numbers stand for, or the strings themselves."""
    if reader is not None and spec.text is not None and spec.text.input_ids in inputs:
        return _short(reader.decode(inputs[spec.text.input_ids].reshape(-1).tolist()))
    strings = [value for value in inputs.values() if value.dtype.kind in "OU"]
    return _short(" | ".join(str(item) for value in strings for item in value.reshape(-1)[:8])) if strings else ""


def sample_picture(inputs: Feed, spec: DataSpec) -> str:
    """The first input that is a picture, as PNG; what normalising did to it is undone, or its range is stretched."""
    for name, value in inputs.items():
        picture = _pixels(value, spec)
        if picture is not None and (spec.image is not None or _is_named_like_one(name)):
            return _png(picture)
    return ""


def _is_named_like_one(name: str) -> bool:
    return re.search(r"image|img|pic|pixel|photo|^x$|^input|data", name, re.IGNORECASE) is not None


def _pixels(value: npt.NDArray[Any], spec: DataSpec) -> npt.NDArray[np.uint8] | None:
    """Return height, width and three channels, or None where this is no picture."""
    import numpy as np

    if value.ndim != 4 or value.shape[0] != 1 or value.dtype.kind not in "fu":
        return None
    pixels = value[0]
    channels_last = pixels.shape[-1] in (1, 3) and (spec.image is None or spec.image.layout == "nhwc")
    if not channels_last:
        if pixels.shape[0] not in (1, 3):
            return None
        pixels = pixels.transpose(1, 2, 0)
    if not all(_SMALLEST_SIDE <= side <= _LARGEST_SIDE for side in pixels.shape[:2]):
        return None
    pixels = pixels.astype(np.float64)
    if spec.image is not None and spec.image.dtype != "uint8":
        pixels = (pixels * np.array(spec.image.std or 1.0) + np.array(spec.image.mean or 0.0)) / spec.image.scale
    elif value.dtype.kind == "f":
        low, high = float(pixels.min()), float(pixels.max())
        pixels = (pixels - low) * (255 / (high - low) if high > low else 0.0)
    if spec.image is not None and spec.image.channels == "bgr":
        pixels = pixels[..., ::-1]
    return np.broadcast_to(np.clip(pixels.round(), 0, 255).astype(np.uint8), (*pixels.shape[:2], 3))


def _png(pixels: npt.NDArray[np.uint8]) -> str:
    from PIL import Image

    image = Image.fromarray(pixels.copy())
    image.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
