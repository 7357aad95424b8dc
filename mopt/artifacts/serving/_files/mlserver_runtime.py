"""A runtime of MLServer: KServe's protocol, version 2, over HTTP and gRPC.

mopt copies this file beside served_model.json and model-settings.json, where everything is set.
"""

from __future__ import annotations

__all__ = ["Runtime"]

from pathlib import Path
from typing import Any

from mlserver import MLModel
from mlserver.errors import InferenceError
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from request_batcher import RequestBatcher
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
        delay_s = self._served.settings["queue_delay_us"] / 1e6
        self._batcher = RequestBatcher(self._served.run_batch, self._served.max_batch, delay_s)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run the model on one request, which may be a batch itself."""
        entries = [
            {"name": each.name, "datatype": _value(each.datatype), "shape": each.shape, "data": _texts(_root(each.data))}
            for each in payload.inputs
        ]
        try:
            feed = self._served.parse({"inputs": entries})
        except InvalidRequestError as error:
            raise InferenceError(str(error)) from None
        answer = self._served.answer(await self._batcher.submit(feed))
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
