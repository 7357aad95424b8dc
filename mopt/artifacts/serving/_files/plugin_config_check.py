"""Open each model of a config.json of OpenVINO Model Server with its plugin_config, and print what OpenVINO makes of it.

As ``src/modelinstance.cpp`` of the server does: the model is reshaped, then compiled for its ``target_device`` with all of it.
It needs OpenVINO and NumPy, not mopt: ``python plugin_config_check.py FOLDER``.
"""

from __future__ import annotations

__all__ = ["opened"]

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ARITHMETIC = {"f32": "fp32", "f16": "fp16"}


def opened(folder: Path, config: Mapping[str, Any]) -> Any:
    """Return the compiled model of one entry of ``model_config_list``."""
    import numpy as np
    import openvino

    # The first tensor of a process must not be made on two threads at once: they would wait for each other for ever.
    openvino.Tensor(np.zeros(1, np.float32))
    core = openvino.Core()
    model = core.read_model(str(folder / config["base_path"] / "1" / "model.xml"))
    shapes = {
        name: [int(size) for size in text.strip("()").split(",") if size] for name, text in config.get("shape", {}).items()
    }
    if shapes:
        model.reshape(shapes)
    return core.compile_model(model, config["target_device"], dict(config["plugin_config"]))


def _told(compiled: Any) -> dict[str, Any]:
    import openvino

    hint = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return {
        "precision": _ARITHMETIC.get(hint, hint),
        "threads": int(compiled.get_property("INFERENCE_NUM_THREADS")),
        "streams": int(compiled.get_property("NUM_STREAMS")),
        "version": openvino.get_version().partition("-")[0],
    }


if __name__ == "__main__":
    root = Path(sys.argv[1])
    entries = json.loads((root / "config.json").read_text(encoding="utf-8"))["model_config_list"]
    json.dump([_told(opened(root, entry["config"])) for entry in entries], sys.stdout)
