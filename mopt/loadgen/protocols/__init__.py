"""What a request looks like on the wire, and what a server says about its models.

KServe's v2 (Open Inference Protocol) over HTTP, with Triton's binary tensors where the server has them, or over gRPC; BentoML's
JSON; and JSON posted to one path: KServe's tensors at SageMaker's ``/invocations``, or rows of ``instances``. Requests are
serialised before a load begins, so that the generator only sends.
"""

from __future__ import annotations

__all__ = [
    "ALIVE",
    "INFER",
    "PROTOCOLS",
    "AmbiguousModelError",
    "Endpoint",
    "Protocol",
    "Request",
    "Server",
    "ask",
    "connect",
    "encode",
    "encode_unchecked",
    "refusal",
]

from mopt.loadgen.protocols._client import ask, connect, encode, encode_unchecked, refusal
from mopt.loadgen.protocols._endpoint import ALIVE, INFER, PROTOCOLS, AmbiguousModelError, Endpoint, Protocol, Request, Server
