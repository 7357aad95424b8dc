"""What a service tells Prometheus of its batches, beside what its server does.

mopt copies this file beside the service that uses it. It needs prometheus_client alone.
"""

from __future__ import annotations

__all__ = ["Served"]

import prometheus_client

_LABELS = ("model_name",)
_BATCHES = prometheus_client.Summary("served_batch_samples", "Samples of an execution", _LABELS)
_WAITS = prometheus_client.Summary("served_queue_seconds", "How long a request has waited for its execution", _LABELS)
_FAILURES = prometheus_client.Counter("served_failures", "Requests that failed, and not by the client's mistake", _LABELS)


class Served:
    """The metrics of one model, which are there, as 0, before its first request.

    Args:
        model: Its name on the server.
    """

    def __init__(self, model: str) -> None:
        self._batches, self._waits, self._failures = (each.labels(model) for each in (_BATCHES, _WAITS, _FAILURES))

    def executed(self, samples: int) -> None:
        """Count an execution of so many samples."""
        self._batches.observe(samples)

    def waited(self, seconds: float) -> None:
        """Count a request that has waited so long, and runs now."""
        self._waits.observe(seconds)

    def failed(self) -> None:
        """Count a request that failed, or that found too many others waiting."""
        self._failures.inc()
