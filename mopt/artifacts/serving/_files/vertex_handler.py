"""The model in Google's prediction server for Vertex AI; requests are put together.

mopt copies this file as handler.py beside batcher.py and served_model.py. The server finds it by ``HANDLER_MODULE`` and
``HANDLER_CLASS``, and hands over the request as it came: ``{"instances": [...]}``.
"""

from __future__ import annotations

__all__ = ["ServedHandler"]

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from batcher import Batcher, ClosedError, OverloadedError
from fastapi import HTTPException, Request, Response
from google.cloud.aiplatform.prediction.handler import Handler
from served_model import InvalidRequestError, ServedModel


class ServedHandler(Handler):
    """What was judged, opened once for each instance, behind one queue.

    Args:
        artifacts_uri: Where served_model.json is: a folder, or ``gs://...``, which is copied first.
        predictor: The server's way to name the model; not used.
    """

    def __init__(self, artifacts_uri: str, predictor: Any = None) -> None:
        folder = _local(artifacts_uri)
        self._model = ServedModel(folder)
        others = (ServedModel(folder) for _ in range(self._model.settings["instances"] - 1))
        self._batcher = Batcher([self._model, *others])

    async def handle(self, request: Request) -> Response:
        """Answer a request with its predictions."""
        try:
            content = json.loads(await request.body())
        except (ValueError, RecursionError) as error:
            raise HTTPException(400, f"the request is no JSON: {error}") from None
        try:
            feeds = self._model.parse_instances(content.get("instances") if isinstance(content, dict) else None)
            answers = await self._batcher.infer_all(feeds)
        except InvalidRequestError as error:
            raise HTTPException(400, str(error)) from None
        except (OverloadedError, ClosedError) as error:
            raise HTTPException(503, str(error)) from None
        return Response(json.dumps({"predictions": self._model.predictions(answers)}), media_type="application/json")


def _local(uri: str) -> Path:
    """A folder with the artifacts; Google's code copies them into the working directory."""
    if not uri.startswith("gs://"):
        return Path(uri)
    from google.cloud.aiplatform.utils import prediction_utils

    folder, before = Path(tempfile.mkdtemp()), Path.cwd()
    os.chdir(folder)
    try:
        prediction_utils.download_model_artifacts(uri)
    finally:
        os.chdir(before)
    return folder
