"""Export a TensorFlow SavedModel."""

from __future__ import annotations

__all__ = ["ExportTensorflow"]

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from mopt.errors import UserError
from mopt.exporters._base import Exporter, rename_inputs, rename_outputs, require
from mopt.model.signature import Feed
from mopt.passes._base import PassResult

_OPSET = 18
"""The newest that tf2onnx writes."""
_TAG = "serve"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportTensorflow(Exporter):
    """Freeze one signature of a SavedModel and convert it with tf2onnx.

    Inputs and outputs get the names that the signature has; dimensions that TensorFlow leaves open stay open.

    Attributes:
        signature: Key of the signature, as TensorFlow Serving knows it.
    """

    accepts: ClassVar[str] = "a TensorFlow SavedModel (folder with saved_model.pb)"
    libraries: ClassVar[tuple[str, ...]] = ("tensorflow", "tensorflow-cpu", "tf2onnx", "onnx-ir")
    extra: ClassVar[str] = "tensorflow"

    signature: str = "serving_default"

    @classmethod
    def matches(cls, source: str) -> bool:
        """Whether it is a folder with ``saved_model.pb``."""
        return (Path(source) / "saved_model.pb").is_file()

    def files(self) -> dict[str, Path]:
        """Return every file of the folder."""
        folder = Path(self.source)
        return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}

    def environment(self) -> dict[str, str]:
        """TensorFlow logs its start on every import."""
        return {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": ""}

    def apply(self, folder: Path) -> PassResult:
        """Convert the signature."""
        import onnx_ir as ir

        from mopt.model.onnx_io import save

        tensorflow, convert = require("tensorflow", self.extra), require("tf2onnx.convert", self.extra)
        function = self._function(tensorflow)
        names = list(function.structured_input_signature[1])
        specs = [
            tensorflow.TensorSpec(spec.shape, spec.dtype, name=name)
            for name, spec in function.structured_input_signature[1].items()
        ]
        keys = sorted(function.structured_outputs)

        @tensorflow.function(input_signature=specs)  # type: ignore[untyped-decorator]
        def by_name(*inputs: Any) -> list[Any]:
            outputs = function(**dict(zip(names, inputs, strict=True)))
            return [tensorflow.identity(outputs[key]) for key in keys]

        proto, _ = convert.from_function(by_name, input_signature=specs, opset=_OPSET)
        model = ir.from_proto(proto)
        rename_inputs(model, {str(value.name): str(value.name).partition(":")[0] for value in model.graph.inputs})
        rename_outputs(model, dict(zip([str(value.name) for value in model.graph.outputs], keys, strict=True)))
        save(model, folder)
        return PassResult(True, {"signature": self.signature})

    def reference(self, feeds: Sequence[Feed]) -> list[Feed]:
        """Run the signature with TensorFlow."""
        tensorflow = require("tensorflow", self.extra)
        function = self._function(tensorflow)
        return [{name: value.numpy() for name, value in _call(tensorflow, function, feed).items()} for feed in feeds]

    def _function(self, tensorflow: Any) -> Any:
        try:
            loaded = tensorflow.saved_model.load(self.source, tags=[_TAG])
        except Exception as error:  # TensorFlow names no base class for what a damaged model leads to
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"TensorFlow cannot load {self.source}: {reason}", "write it with tf.saved_model.save or model.export"
            ) from error
        if self.signature not in loaded.signatures:
            raise UserError(
                f"{self.source} has no signature {self.signature}",
                f"it has: {', '.join(loaded.signatures) or 'none; save it with signatures=...'}",
            )
        function = loaded.signatures[self.signature]
        function.owner = loaded  # the variables live as long as the object that holds them
        return function


def _call(tensorflow: Any, function: Any, feed: Feed) -> dict[str, Any]:
    outputs: dict[str, Any] = function(**{name: tensorflow.constant(value) for name, value in feed.items()})
    return outputs
