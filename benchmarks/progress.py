"""How right the remaining time of a build was, from moment to moment: record one, or replay what was recorded.

python -m benchmarks.progress record model.onnx samples.npz recording.json
python -m benchmarks.progress replay recording.json ...
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mopt.system.store import Store
from mopt.workflows.build import build
from tests.replayed import replayed

_SHOWN = 20


class Recorder:
    """Keeps what a build tells."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self._start = time.monotonic()

    def add(self, *event: Any) -> None:
        """Note an event with its time."""
        self.events.append((round(time.monotonic() - self._start, 2), *event))

    def stage(self, title: str, total: int) -> None:
        """Note it."""
        self.add("stage", title, total)

    def step(self, note: str = "") -> None:
        """Note it."""
        self.add("step")

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Note it."""
        self.add("expect", {title: round(value, 2) for title, value in seconds.items()})


def record(model: str, data: str, path: Path) -> None:
    """Build with nothing in the cache, and write what it told."""
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as folder:
        artifact, store = Path(folder) / "artifact", Store(Path(folder) / "store")
        build(model=model, data=data, out=artifact, progress=recorder, store=store)
    recorder.add("end")
    path.write_text("[\n" + ",\n".join(json.dumps(event) for event in recorder.events) + "\n]\n")


def replay(path: Path) -> None:
    """Print what was shown and what was right, and the largest factor between them from the first quarter on."""
    events = json.loads(path.read_text())
    moments, end = list(replayed(events)), events[-1][0]
    print(f"{path.stem}: {end:.0f} s")
    for moment in moments[:: max(1, len(moments) // _SHOWN)]:
        shown = "unknown" if moment.shown is None else f"{moment.shown:.0f} s"
        print(f"  at {moment.at:5.0f} s  left {moment.left:5.0f} s  shown {shown:>8}  {moment.title}")
    late = [moment for moment in moments if moment.at > end / 4 and moment.shown is not None]
    print(f"  largest factor from the first quarter on: {max(moment.factor for moment in late):.2f}")


if __name__ == "__main__":
    if sys.argv[1] == "record":
        record(sys.argv[2], sys.argv[3], Path(sys.argv[4]))
    else:
        for argument in sys.argv[2:]:
            replay(Path(argument))
