"""The model in containers that have AWS's inference toolkit: they call these two functions.

mopt copies this file as code/inference.py into model.tar.gz. The toolkit gives each worker one request at a time.
"""

from __future__ import annotations

__all__ = ["model_fn", "transform_fn"]

import json
from http import HTTPStatus

from sagemaker_inference.errors import BaseInferenceToolkitError
from served_model import InvalidRequestError, ServedModel


def model_fn(model_dir: str) -> ServedModel:
    """Open what was judged."""
    return ServedModel(model_dir)


def transform_fn(model: ServedModel, data: str | bytes, content_type: str, accept: str) -> tuple[str, str]:
    """Answer a request of KServe's protocol, version 2, in JSON."""
    try:
        request = json.loads(data)
        feed = model.parse(request)
    except (InvalidRequestError, ValueError, RecursionError) as error:
        raise BaseInferenceToolkitError(HTTPStatus.BAD_REQUEST, str(error), HTTPStatus.BAD_REQUEST.phrase) from None
    return json.dumps(model.answer(model.run(feed), request.get("id"))), "application/json"
