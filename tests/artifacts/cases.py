"""What the tests of artifacts share: one that is small, and how to write it."""

import numpy as np

from mopt.artifacts.bundle import write_artifact
from mopt.reports.build import render_files
from tests.manifests import manifest

INPUT = {"images": np.linspace(0, 1, 3 * 8 * 8, dtype=np.float32).reshape(1, 3, 8, 8)}
OUTPUT = {"logits": np.ones((1, 10), np.float32)}


def write(destination, model, *, force=False, sketch=None, **changes):
    return write_artifact(
        destination,
        model=model,
        manifest=manifest(**changes),
        golden_inputs=[INPUT],
        golden_outputs=[OUTPUT],
        reports=render_files,
        serving=["triton"],
        sketch=sketch,
        force=force,
    )
