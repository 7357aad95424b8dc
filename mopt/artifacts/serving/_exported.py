"""What a serving system tells Prometheus: from it the rules and the dashboard follow."""

from __future__ import annotations

__all__ = ["Exported"]

import dataclasses
import json
import re
import string
from collections.abc import Callable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """Expressions of PromQL about one model, over all of its replicas.

    ``$m`` stands for the matchers of the model, ``$name`` for its name on the server, ``$w`` for the window, and
    ``$instances`` for the instances of the model that one server was planned with. A counter goes through ``rate`` before it
    is summed, so that a server that starts again, and counts from 0, is no negative rate. Means are ratios of such sums,
    never means of means. A metric that names no model is taken of the servers that have it:
    ``rate(metric{}[$w]) and on (job, instance) other{$m}``. What a system does not tell is empty, and the rules about it are
    left out.

    Attributes:
        source: Where the names were seen.
        start: How the server is started so that it exports them.
        named: Makes of the artifact's name the one that the server's files give it.
        matchers: What selects the model.
        answered: Requests per second that were answered.
        failed: Requests per second that failed for another reason than the client's.
        inferences: Samples per second; as ``answered`` where empty.
        p99: The 99th percentile of the latency in seconds.
        p99_note: What is to be known about it.
        queue: Seconds that a request waited, on average.
        batch: Samples of an execution, on average.
        pending: Requests that wait, now.
        replicas: Servers that have the model, now; each has all instances that it was planned with.
        silent: What it does not tell, for people.
    """

    source: str
    start: str
    named: Callable[[str], str]
    matchers: str
    answered: str
    failed: str = ""
    inferences: str = ""
    p99: str = ""
    p99_note: str = ""
    queue: str = ""
    batch: str = ""
    pending: str = ""
    replicas: str = ""
    silent: tuple[str, ...] = ()

    def expression(self, field: str, name: str, window: str = "5m", instances: int = 1) -> str:
        """Return one of the expressions; empty where the system does not tell.

        Args:
            field: Which one, such as ``answered``.
            name: Of the artifact.
            window: Of ``rate``, as Prometheus writes a duration.
            instances: Of the model in one server.
        """
        quoted = json.dumps(self.named(name))[1:-1]
        matchers = string.Template(self.matchers).substitute(name=quoted)
        return string.Template(getattr(self, field)).substitute(m=matchers, name=quoted, w=window, instances=instances)

    @property
    def metrics(self) -> frozenset[str]:
        """The names of all metrics in its expressions."""
        expressions = " ".join(str(getattr(self, field.name)) for field in dataclasses.fields(self) if field.name in _FIELDS)
        return frozenset(re.findall(r"([A-Za-z_:][\w:]*)\{", expressions))


_FIELDS = frozenset(("answered", "failed", "inferences", "p99", "queue", "batch", "pending", "replicas"))
