"""A runtime of MLServer: KServe's protocol, version 2, over HTTP and gRPC.

mopt copies this file beside served_model.json and model-settings.json, where everything is set.
"""

from __future__ import annotations

__all__ = ["Runtime"]

from pathlib import Path
from typing import Any

from batcher import Batcher, ClosedError, OverloadedError
from mlserver import MLModel
from mlserver.errors import InferenceError, MLServerError
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from served_model import InvalidRequestError, ServedModel

FOLDER = Path(__file__).parent


class Runtime(MLModel):
    """The model in MLServer's process, or in each of its workers.

    MLServer's own batching joins the values of requests by the name of the input, whatever their shapes and types, and starts
    a batch beside the one that runs; here requests are checked first, and one batch runs after the other.
    """

    async def load(self) -> bool:
        """Open the session and warm it up."""
        self._served = ServedModel(FOLDER)
        self._batcher = Batcher([self._served])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run the model on one request, which may be a batch itself."""
        entries = [
            {"name": each.name, "datatype": _value(each.datatype), "shape": each.shape, "data": _texts(_root(each.data))}
            for each in payload.inputs
        ]
        try:
            outputs = await self._batcher.infer(self._served.parse({"inputs": entries}))
        except InvalidRequestError as error:
            raise InferenceError(str(error)) from None
        except (OverloadedError, ClosedError) as error:
            raise MLServerError(str(error), 503) from None
        answer = self._served.answer(outputs)
        return InferenceResponse(model_name=self.name, outputs=[ResponseOutput(**output) for output in answer["outputs"]])


def _value(datatype: Any) -> Any:
    return getattr(datatype, "value", datatype)


def _root(data: Any) -> Any:
    return getattr(data, "root", data)


def _texts(data: Any) -> Any:
    """Text that comes over gRPC is bytes."""
    if isinstance(data, list):
        return [item.decode(errors="replace") if isinstance(item, bytes) else item for item in data]
    return data
