"""A language model to build from: a Hugging Face folder, an id of the hub, or a GGUF file."""

from __future__ import annotations

__all__ = ["LoadedSource", "language_source", "load_source", "tensor_bytes"]

import dataclasses
import json
import re
from pathlib import Path

from mopt.model.checkpoint import Checkpoint, is_causal_folder, open_checkpoint
from mopt.model.files import Model
from mopt.model.formats import model_format
from mopt.model.gguf import open_gguf
from mopt.progress import Progress
from mopt.recipe import Recipe
from mopt.records import units as q
from mopt.records.language import LanguageSource
from mopt.storage._base import is_url
from mopt.storage._fetch import fetched
from mopt.system.digests import digest, file_digest
from mopt.system.store import Store, default_root

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_GGUF = b"GGUF"


@dataclasses.dataclass(frozen=True)
class LoadedSource:
    """The model that is built from.

    Attributes:
        model: On disk.
        record: What is known of it.
        checkpoint: Of a Hugging Face folder; None for a GGUF.
    """

    model: Model
    record: LanguageSource
    checkpoint: Checkpoint | None


def language_source(source: str, progress: Progress | None = None, store: Store | None = None) -> Path | None:
    """Return where a causal language model is on this machine, fetched if need be; None when the source is no such model.

    What looks like ``organisation/name`` and is no path is an id of the Hugging Face hub.

    Raises:
        UserError: When it cannot be fetched.
    """
    named_on_hub = _HUB_ID.fullmatch(source) is not None and not Path(source).exists() and not Path(source).suffix
    if named_on_hub:
        source = f"hf://{source}"
    if is_url(source) and not _may_be_language(source):
        return None
    path = Path(fetched(source, progress, store))
    if is_causal_folder(path) or _is_gguf(path):
        return path
    return None


def _may_be_language(url: str) -> bool:
    """A file of another kind that is fetched later is not fetched here: its name says that it is no language model."""
    return not Path(url.partition("@")[0]).suffix or url.endswith(".gguf")


def _is_gguf(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(len(_GGUF)) == _GGUF
    except OSError:
        return False


def load_source(path: Path, recipe: Recipe | None = None) -> LoadedSource:
    """Read what a model says of itself; no tensor is read.

    Raises:
        UserError: When it is damaged, or quantized already and no GGUF.
    """
    name = recipe.model if recipe else str(path)
    path = path.absolute()  # passes run in folders of their own
    return _load_folder(path, name) if path.is_dir() else _load_gguf(path, name)


def _load_folder(path: Path, name: str) -> LoadedSource:
    checkpoint = open_checkpoint(path)
    model = Model.at("huggingface", path)
    record = LanguageSource(
        source=name,
        digest=model.digest,
        format=model.format,
        architecture=checkpoint.architecture,
        parameters=checkpoint.parameters,
        size_bytes=checkpoint.size,
        vocabulary=checkpoint.vocabulary,
        positions=checkpoint.positions,
        licence=_licence(path),
        chat=_has_chat_template(path),
        note=_quantized_note(checkpoint),
    )
    return LoadedSource(model, record, checkpoint)


def _quantized_note(checkpoint: Checkpoint) -> str:
    method = checkpoint.quantization.get("quant_method")
    return (
        f"it is quantized already ({method}): quality is compared with what it is, not with what it came from" if method else ""
    )


def _load_gguf(path: Path, name: str) -> LoadedSource:
    gguf = open_gguf(path)
    folder = _named_folder(path)
    record = LanguageSource(
        source=name,
        digest=file_digest(path),
        format="gguf",
        architecture=gguf.architecture,
        parameters=gguf.parameters,
        size_bytes=gguf.size,
        vocabulary=len(gguf.tokens),
        positions=gguf.context,
        licence=str(gguf.metadata.get("general.license", "")),
        chat=bool(gguf.chat_template),
        note=f"it holds {q.digits(gguf.bits_per_weight)} bits a weight ({gguf.file_type}): quality is compared with what it is",
    )
    return LoadedSource(Model("gguf", folder, record.digest), record, None)


def _named_folder(path: Path) -> Path:
    """A folder in which the file has the name that passes and runtimes look for; it is read, and never written to."""
    link = default_root() / "gguf-sources" / digest({"file": str(path.resolve())}) / model_format("gguf").main_file
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(path.resolve())
    return link.parent


def _licence(folder: Path) -> str:
    """What the model card's front matter says, or the name of the licence file."""
    card = folder / "README.md"
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines()[:60] if card.is_file() else []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("license:")), "")
    file = next((path.name for path in sorted(folder.glob("LICEN[SC]E*"))), "")
    return named or file


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(settings, dict) and bool(settings.get("chat_template"))


def tensor_bytes(model: Model) -> int:
    """Bytes of all tensors of a model, whatever its format."""
    if model.format == "huggingface":
        return open_checkpoint(model.folder).size
    if model.format == "gguf":
        return open_gguf(model.file).size
    suffixes = (".onnx", ".data", ".bin")
    return sum(
        path.stat().st_size
        for path in model.folder.iterdir()
        if path.suffix in suffixes and not path.name.startswith(("openvino_tokenizer", "openvino_detokenizer"))
    )
