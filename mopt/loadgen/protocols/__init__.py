"""What a request looks like on the wire, and what a server says about its models.

Three protocols: KServe's v2 (Open Inference Protocol) over HTTP, with Triton's binary tensors where the server has them; the
same over gRPC; and BentoML's JSON over HTTP. Requests are serialised before a load begins, so that the generator only sends.
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
]

from mopt.loadgen.protocols._client import ask, connect, encode
from mopt.loadgen.protocols._endpoint import ALIVE, INFER, PROTOCOLS, AmbiguousModelError, Endpoint, Protocol, Request, Server
