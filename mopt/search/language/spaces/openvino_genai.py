"""Candidates of OpenVINO GenAI: weights of 4 or 8 bits."""

from __future__ import annotations

__all__ = ["OpenvinoGenaiSpace"]

from collections.abc import Iterator

from mopt.model.openvino_properties import OpenvinoProperties
from mopt.passes._base import Pass
from mopt.passes.language.export_openvino_codes import ExportOpenvinoCodes
from mopt.passes.language.export_openvino_genai import ExportOpenvinoGenai
from mopt.passes.language.quantize_gptq import QuantizeGPTQ
from mopt.recipe import EffortName
from mopt.runtimes.language.openvino_genai import OpenvinoGenai
from mopt.search.language.spaces._base import LanguageSpace, LanguageSpaceInputs
from mopt.search.language.trial import LanguageCandidate


class OpenvinoGenaiSpace(LanguageSpace):
    """What optimum-intel and NNCF make of a checkpoint, and the codes of our own quantization in such a graph."""

    def candidates(self, inputs: LanguageSpaceInputs) -> Iterator[LanguageCandidate]:
        """Yield the checkpoint's own precision, INT8, and INT4 with scales that real text chose, or codes of GPTQ."""
        if inputs.format != "huggingface":
            return
        properties = OpenvinoProperties(kv_cache="u8") if inputs.options.kv_cache == "int8" else OpenvinoProperties()
        runtime = OpenvinoGenai(threads=inputs.threads, context=inputs.context)
        quantize = QuantizeGPTQ(windows=inputs.windows, group_size=32, leave=inputs.options.leave)
        exported: list[tuple[str, tuple[Pass, ...], EffortName]] = [
            ("source", (ExportOpenvinoGenai(weights="source", properties=properties),), "thorough"),
            ("int8", (ExportOpenvinoGenai(weights="int8", properties=properties),), "quick"),
            (
                "int4",
                (ExportOpenvinoGenai(weights="int4", windows=inputs.windows, scale_estimation=True, properties=properties),),
                "thorough",
            ),
            ("int4-gptq", (quantize, ExportOpenvinoCodes(properties=properties)), "standard"),
        ]
        for name, passes, effort in exported:
            yield LanguageCandidate(
                name=f"openvino_genai-{name}",
                passes=passes,
                runtime=runtime,
                method="openvino_genai",
                detail=name,
                unquantized=name == "source",
                effort=effort,
            )
