"""Make a model for OpenVINO GenAI: optimum-intel traces it, NNCF compresses its weights."""

from __future__ import annotations

__all__ = ["ExportOpenvinoGenai"]

import collections
import dataclasses
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mopt.errors import CandidateRejectedError, NotApplicableError, Rejection, UserError
from mopt.model.checkpoint import Checkpoint, copy_companions, open_checkpoint
from mopt.model.files import Model
from mopt.model.openvino_properties import OpenvinoProperties
from mopt.model.tokens import TokenWindows
from mopt.passes._base import PassResult
from mopt.passes.language._base import LanguagePass

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_MODEL = "openvino_model.xml"
_TOKENIZERS = ("openvino_tokenizer", "openvino_detokenizer")
_TASK = "text-generation-with-past"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOpenvinoGenai(LanguagePass):
    """A stateful graph, which keeps the cache itself, with the tokenizer and the detokenizer as graphs of OpenVINO.

    The whole model is held in memory: once as PyTorch has it while it is traced, then mapped from the disk while it is
    compressed, with what the compression makes; ``scale_estimation`` and ``gptq`` hold the activations of the windows as well.

    Attributes:
        weights: Of linear layers and embeddings; ``source`` keeps them as the checkpoint has them. With ``int4`` the embeddings
            and the head are held in INT8, unless ``all_layers`` says otherwise.
        group_size: Consecutive inputs of a layer that share a scale in INT4, -1 for all of them; smaller ones are taken for
            layers that it does not divide.
        symmetric: Whether the zero point is that of the middle code; INT8 is one row a scale.
        ratio: Share of the layers, by parameters, that are held in INT4; those whose rounding costs most are held in INT8.
        all_layers: Whether embeddings and head are held in INT4 as well.
        awq: Whether channels are scaled by the activations that they see in the windows, or by their own size without any.
        scale_estimation: Whether scales are those with the least error on the windows.
        gptq: Whether what rounding an input costs is made up for in the inputs after it, by the windows.
        windows: Of real text, for these three and for the choice that ``ratio`` asks for.
        properties: With which it is to be executed, here and by the server.
    """

    makes: ClassVar[str] = "openvino_genai"
    libraries: ClassVar[tuple[str, ...]] = (
        "openvino", "openvino-tokenizers", "optimum-intel", "optimum", "nncf", "torch", "transformers",
    )  # fmt: skip
    tools: ClassVar[str] = "openvino_genai"

    weights: Literal["source", "fp32", "fp16", "int8", "int4"] = "int4"
    group_size: int = 128
    symmetric: bool = True
    ratio: float = 1.0
    all_layers: bool = False
    awq: bool = False
    scale_estimation: bool = False
    gptq: bool = False
    windows: TokenWindows | None = None
    properties: OpenvinoProperties = dataclasses.field(default_factory=OpenvinoProperties)

    def __post_init__(self) -> None:
        """Refuse what NNCF could not do.

        Raises:
            UserError: For an algorithm that needs windows of real text without any.
        """
        if (self.scale_estimation or self.gptq) and self.windows is None:
            raise UserError("scale estimation and GPTQ need windows of real text", "give calibration text")
        if not 0 <= self.ratio <= 1 or (self.group_size < 1 and self.group_size != -1):
            raise UserError(f"no such layers: ratio {self.ratio}, groups of {self.group_size}", "a ratio is within 0 and 1")

    def apply(self, source: Model, folder: Path) -> PassResult:
        """Trace, compress and convert the tokenizer, without the network and without code of the model."""
        checkpoint = open_checkpoint(source.folder)
        if method := checkpoint.quantization.get("quant_method"):
            raise NotApplicableError(
                f"the checkpoint is quantized already ({method}), and OpenVINO's export would need its library"
            )
        os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
        traced = folder.parent / "traced" if self.weights in ("int4", "int8") else folder
        self._trace(checkpoint, traced)
        detail = self._compress(traced, folder) if traced != folder else {}
        self.properties.write(folder)
        copy_companions(source.folder, folder, skip=tuple(path.name for path in folder.iterdir()))
        return PassResult(modified=True, detail=detail)

    def _trace(self, checkpoint: Checkpoint, target: Path) -> None:
        from optimum.exporters.openvino import main_export
        from optimum.exporters.tasks import TasksManager
        from optimum.intel import OVConfig

        kind = str(checkpoint.config.get("model_type"))
        try:
            tasks = TasksManager.get_supported_tasks_for_model_type(kind, exporter="openvino", library_name="transformers")
        except KeyError:
            tasks = {}
        if _TASK not in tasks:
            raise NotApplicableError(f"optimum-intel has no export of {checkpoint.architecture} ({kind}) for generation")
        main_export(
            str(checkpoint.folder),
            str(target),
            task=_TASK,
            library_name="transformers",
            ov_config=OVConfig(dtype=self.weights if self.weights in ("fp32", "fp16") else None),
            convert_tokenizer=True,
            local_files_only=True,
            trust_remote_code=False,
        )
        if missing := [name for name in _TOKENIZERS if not (target / f"{name}.xml").is_file()]:
            raise CandidateRejectedError(Rejection.UNSUPPORTED, f"OpenVINO cannot convert the tokenizer: no {missing[0]}.xml")

    def _compress(self, traced: Path, folder: Path) -> dict[str, Any]:
        """Write the compressed graph and what else was traced; return how many weights are held in each type."""
        import openvino

        model = self._compressed(openvino.Core().read_model(str(traced / _MODEL)))
        openvino.save_model(model, str(folder / _MODEL), compress_to_fp16=False)
        held = _held(model)
        del model  # it maps the files that are removed
        for path in sorted(traced.iterdir()):
            if path.is_file() and path.stem != Path(_MODEL).stem:
                shutil.copyfile(path, folder / path.name)
        shutil.rmtree(traced)
        return {"parameters": held}

    def _compressed(self, model: Any) -> Any:
        import nncf

        mode = nncf.CompressWeightsMode[f"{self.weights.upper()}_{'SYM' if self.symmetric else 'ASYM'}"]
        if self.weights == "int8":
            return nncf.compress_weights(model, mode=mode)
        aware = self.awq or self.scale_estimation or self.gptq or self.ratio < 1
        feeds = [_feed(model, window) for window in self.windows.load()] if self.windows is not None and aware else []
        return nncf.compress_weights(
            model,
            mode=mode,
            group_size=self.group_size,
            ratio=self.ratio,
            all_layers=self.all_layers,
            awq=self.awq,
            scale_estimation=self.scale_estimation,
            gptq=self.gptq,
            dataset=nncf.Dataset(feeds) if feeds else None,
            subset_size=max(1, len(feeds)),
            advanced_parameters=nncf.AdvancedCompressionParameters(group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST),
        )


def _feed(model: Any, window: npt.NDArray[np.int32]) -> dict[str, Any]:
    """Inputs of one window from an empty cache."""
    import numpy as np

    count = len(window)
    feed = {
        "input_ids": window[None].astype(np.int64),
        "attention_mask": np.ones((1, count), np.int64),
        "position_ids": np.arange(count, dtype=np.int64)[None],
        "beam_idx": np.zeros(1, np.int32),
    }
    return {name: feed[name] for port in model.inputs for name in port.get_names() if name in feed}


def _held(model: Any) -> dict[str, int]:
    """Count the numbers of matrices by their type; scales and zero points, whose last axis is 1, are none."""
    import math

    held: collections.Counter[str] = collections.Counter()
    for node in model.get_ops():
        if node.get_type_name() == "Constant" and len(shape := node.get_output_shape(0)) > 1 and shape[-1] > 1:
            held[node.get_element_type().get_type_name()] += math.prod(shape)
    return dict(held)
