"""The model in KServe's own server, over its protocols v1 and v2 and over gRPC; requests are put together.

mopt copies this file as model.py; it is started with ``--model_dir`` and what else KServe's server takes.
"""

from __future__ import annotations

__all__ = ["OnlyVersion1", "Served"]

import argparse
from pathlib import Path
from typing import Any

import kserve
import kserve.errors
import kserve.model_server
import numpy as np
from batcher import Batcher, ClosedError, OverloadedError
from fastapi.responses import JSONResponse
from kserve.metrics import POST_HIST_TIME, PREDICT_HIST_TIME, get_labels
from served_metrics import Served as Metrics
from served_model import DATATYPES, InvalidRequestError, ModelInterface, ServedModel, unscaled

_VERSIONS = ("", "1", None)


class BusyError(kserve.errors.ModelNotReady):
    """Too many requests wait, or the server ends: HTTP 503, and UNAVAILABLE over gRPC, which looks for a reason."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.reason = self.error_msg = f"{name} takes no request now: {reason}"


class Served(kserve.Model):
    """What was judged, opened once for each instance, behind one queue.

    Args:
        folder: Where served_model.json is, and the model below it.
    """

    def __init__(self, folder: Path) -> None:
        name = ModelInterface(folder).name
        super().__init__(name)
        self._metrics = Metrics(name)
        self._model = first = ServedModel(folder, executed=self._metrics.executed)
        for times in (PREDICT_HIST_TIME, POST_HIST_TIME):
            times.labels(**get_labels(name))  # there before the first request, as 0
        others = range(first.settings["instances"] - 1)
        models = [first, *(ServedModel(folder, executed=self._metrics.executed) for _ in others)]
        self._batcher = Batcher(models, waited=self._metrics.waited)
        self.ready = True

    def get_input_types(self) -> list[dict[str, Any]]:
        """Return the inputs as the protocol describes them."""
        inputs: list[dict[str, Any]] = self._model.metadata()["inputs"]
        return inputs

    def get_output_types(self) -> list[dict[str, Any]]:
        """Return the outputs as the protocol describes them."""
        outputs: list[dict[str, Any]] = self._model.metadata()["outputs"]
        return outputs

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """Answer a request of v1, a dictionary, or of v2."""
        try:
            if isinstance(payload, kserve.InferRequest):
                return self._answer(payload, await self._batcher.infer(self._feed(payload)))
            feeds = self._model.parse_instances(payload.get("instances") if isinstance(payload, dict) else None)
            return {"predictions": self._model.predictions(await self._batcher.infer_all(feeds))}
        except InvalidRequestError as error:
            raise kserve.errors.InvalidInput(str(error)) from None
        except (OverloadedError, ClosedError) as error:
            self._metrics.failed()
            raise BusyError(self.name, str(error)) from None
        except Exception:  # whatever it is, it is no mistake of the client
            self._metrics.failed()
            raise

    def stop(self) -> None:
        """Answer what waits, and take no more."""
        super().stop()
        self._batcher.close()

    def _feed(self, request: Any) -> dict[str, Any]:
        if request.model_version not in _VERSIONS:
            raise InvalidRequestError(f"{self.name} has no version {request.model_version}")
        if request.from_grpc:
            return self._from_grpc(request)
        fields = ("name", "datatype", "shape", "data")
        return self._model.parse({"inputs": [{field: getattr(entry, field) for field in fields} for entry in request.inputs]})

    def _from_grpc(self, request: Any) -> dict[str, Any]:
        """Tensors come with their types here, as raw bytes or as typed contents."""
        feed = {}
        for entry in request.inputs:
            try:
                value = entry.as_numpy()
                if entry.datatype == "BYTES":
                    texts = [item.decode() if isinstance(item, bytes) else str(item) for item in value.ravel()]
                    value = np.array(texts, dtype=object).reshape(value.shape)
            except ValueError as error:
                raise InvalidRequestError(f"{entry.name} cannot be read: {error}") from None
            feed[entry.name] = value
        for spec in self._model.inputs:
            if (value := feed.get(spec["name"])) is not None:
                feed[spec["name"]] = value.reshape(unscaled(spec, value.shape))
        self._model.check(feed)
        return feed

    def _answer(self, request: Any, outputs: dict[str, Any]) -> Any:
        entries = []
        for name, value in outputs.items():
            text = value.dtype.kind in "OUS"
            datatype = DATATYPES["str" if text else value.dtype.name]
            shape = list(value.shape) or [1]
            data = value.astype(object) if text else value
            if request.from_grpc:  # the SDK asks an array that is to be sent as bytes whether it is true
                entries.append(kserve.InferOutput(name, shape, datatype))
                entries[-1].set_data_from_numpy(data.reshape(shape), binary_data=True)
            else:
                entries.append(kserve.InferOutput(name, shape, datatype, data=data.reshape(shape)))
        return kserve.InferResponse(
            request.id or "",
            self.name,
            entries,
            model_version="1",
            use_binary_outputs=request.use_binary_outputs and not request.from_grpc,
            requested_outputs=None if request.from_grpc else request.request_outputs,
        )


class OnlyVersion1:
    """Take version 1 for what it is, and refuse the others: KServe's server answers 501 to every version.

    Args:
        application: What comes behind it.
    """

    def __init__(self, application: Any) -> None:
        self._application = application

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer, or hand over, one request."""
        before, found, after = scope.get("path", "").partition("/versions/")
        if found and before.startswith("/v2/models/"):
            version, slash, rest = after.partition("/")
            if version != "1":
                await JSONResponse({"error": f"there is no version {version}"}, 404)(scope, receive, send)
                return
            scope = {**scope, "path": before + slash + rest}
        await self._application(scope, receive, send)


def main() -> None:
    """Serve."""
    kserve.model_server.app.add_middleware(OnlyVersion1)
    parser = argparse.ArgumentParser(parents=[kserve.model_server.parser])
    parser.add_argument("--model_dir", type=Path, default=Path("/mnt/models"))
    kserve.ModelServer().start([Served(parser.parse_args().model_dir)])


if __name__ == "__main__":
    main()
