"""Requests that do not fit a model, each of which a server must refuse as its sender's mistake."""

from __future__ import annotations

__all__ = ["BadRequest", "bad_requests"]

import dataclasses
import re
from typing import Any

from mopt.loadgen.protocols import Endpoint, Request, encode_unchecked, refusal
from mopt.model.signature import Feed, Signature, dtype_kind

_NO_VERSION = "99"
_NO_NAME = "no such name"


@dataclasses.dataclass(frozen=True)
class BadRequest:
    """One mistake.

    Attributes:
        name: What is wrong with it.
        endpoint: Where it is sent.
        request: What is sent.
        may_be_answered: Whether a server may also answer it in full: one that takes large requests apart.
        any_error: Whether any error will do: whose mistake it is, a server cannot always tell.
    """

    name: str
    endpoint: Endpoint
    request: Request
    may_be_answered: bool = False
    any_error: bool = False

    def outcome(self) -> str:
        """Send it; return what is wrong with what the server does, or nothing.

        Raises:
            UserError: When the server does not answer.
        """
        reason = refusal(self.endpoint, self.request)
        answered = reason == "answered" or reason.startswith("HTTP 200")
        return "" if (self.may_be_answered and answered) or (self.any_error and not answered) else reason


def bad_requests(endpoint: Endpoint, signature: Signature, inputs: Feed, max_batch: int) -> list[BadRequest]:
    """Return a request of each kind of mistake that this protocol can carry.

    Args:
        endpoint: A server with the model.
        signature: Of the model.
        inputs: Real ones for a batch of one.
        max_batch: The largest that the server takes at once.
    """
    feed = signature.alone(inputs)
    # Lists of nothing say nothing of their type.
    first = next((spec.name for spec in signature.inputs if feed[spec.name].size), signature.inputs[0].name)
    mistakes = [
        BadRequest("wrong name", endpoint, encode_unchecked(endpoint, _renamed(feed, first))),
        BadRequest("wrong type", endpoint, encode_unchecked(endpoint, {**feed, first: _other_type(feed[first])})),
        BadRequest("wrong shape", endpoint, encode_unchecked(endpoint, {**feed, first: _other_rank(feed[first])})),
    ]
    if signature.batches and endpoint.protocol != "instances":
        stacked = signature.stack([inputs] * (max(1, max_batch) + 1))
        mistakes.append(
            BadRequest("batch over the maximum", endpoint, encode_unchecked(endpoint, stacked), may_be_answered=True)
        )
    if endpoint.protocol == "kserve-grpc":
        return [*mistakes, *_elsewhere_over_grpc(endpoint, feed)]
    half = Request(b'{"inputs": [', (("Content-Type", "application/json"),))
    mistakes.append(BadRequest("half a JSON", endpoint, half, any_error=True))
    if endpoint.protocol == "kserve-http":
        mistakes += _elsewhere_over_http(endpoint, feed)
    return mistakes


def _renamed(feed: Feed, name: str) -> Feed:
    return {(_NO_NAME if key == name else key): value for key, value in feed.items()}


def _other_type(value: Any) -> Any:
    """Text in place of numbers, numbers in place of text: what no protocol takes for the other."""
    import numpy as np

    if dtype_kind(value.dtype) == "str":
        return np.zeros(value.shape, np.float32)
    return np.full(value.shape, "text", dtype=object)


def _other_rank(value: Any) -> Any:
    """The same with two more axes: more than one, which a server may take for a batch."""
    return value[..., None, None]


def _elsewhere_over_http(endpoint: Endpoint, feed: Feed) -> list[BadRequest]:
    root = re.sub(r"(/versions/[^/]+)?/infer$", "", endpoint.path)
    version = dataclasses.replace(endpoint, path=f"{root}/versions/{_NO_VERSION}/infer")
    model = dataclasses.replace(endpoint, path=re.sub(r"/models/.*$", "/models/no-such-model/infer", endpoint.path))
    request = encode_unchecked(endpoint, feed)
    return [BadRequest("unknown version", version, request), BadRequest("unknown model", model, request)]


def _elsewhere_over_grpc(endpoint: Endpoint, feed: Feed) -> list[BadRequest]:
    version, model = dataclasses.replace(endpoint, version=_NO_VERSION), dataclasses.replace(endpoint, model=_NO_NAME)
    return [
        BadRequest("unknown version", version, encode_unchecked(version, feed)),
        BadRequest("unknown model", model, encode_unchecked(model, feed)),
    ]
