"""A handler of TorchServe: bodies of KServe's protocol, version 2, at /predictions/NAME.

mopt puts this file into the archive beside served_model.json, where everything is set.
"""

from __future__ import annotations

__all__ = ["Handler"]

import json
from typing import Any

from served_model import InvalidRequestError, ServedModel


class Handler:
    """The model in a worker; TorchServe puts requests together, and each gets its own answer or refusal."""

    def initialize(self, context: Any) -> None:
        """Open the session and warm it up."""
        self._served = ServedModel(context.system_properties["model_dir"])

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[str]:
        """Return the body of the answer to each request."""
        answers, feeds, identities = [""] * len(data), {}, {}
        for index, request in enumerate(data):
            context.set_response_content_type(index, "application/json")
            try:
                content = _content(request)
                feeds[index] = self._served.parse(content)
                identities[index] = content.get("id")
            except InvalidRequestError as error:
                context.set_response_status(400, "Bad Request", index)
                answers[index] = json.dumps({"error": str(error)})
        for index, outputs in zip(feeds, self._served.run_batch(list(feeds.values())), strict=True):
            answers[index] = json.dumps(self._served.answer(outputs, identities[index]))
        return answers


def _content(request: dict[str, Any]) -> Any:
    """The body of a request, which TorchServe has read as JSON already where its content type says so."""
    body = request.get("body")
    if not isinstance(body, (bytes, bytearray, str)):
        return body
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidRequestError("the body is not JSON") from None
