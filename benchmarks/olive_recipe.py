"""Olive as its documentation says, run with the Python of Olive's own environment.

    olive_recipe.py MODEL.onnx SAMPLES.npz OUTPUT

Lets Olive search static and dynamic INT8 quantization with its own defaults and pick by latency on the CPU.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np

SCRIPT = """
import numpy as np
from olive.data.registry import Registry

class Feeds:
    def __init__(self, path):
        with np.load(path, allow_pickle=False) as arrays:
            self.columns = {name: arrays[name] for name in arrays.files}
        self.count = len(next(iter(self.columns.values())))

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {name: values[index] for name, values in self.columns.items()}, 0

@Registry.register_dataset()
def mopt_benchmark_feeds(path, **_):
    return Feeds(path)
"""


def config(model, samples, output):
    """Return a workflow: graph rewrites, then the faster of two quantizations."""
    script = output / "feeds.py"
    script.write_text(SCRIPT)
    data = {
        "name": "samples",
        "user_script": str(script),
        "load_dataset_config": {"type": "mopt_benchmark_feeds", "params": {"path": str(samples)}},
        "dataloader_config": {"type": "no_auto_batch_dataloader"},
    }
    latency = {
        "name": "latency",
        "type": "latency",
        "data_config": "samples",
        "sub_types": [{"name": "avg", "priority": 1}],
    }
    return {
        "input_model": {"type": "ONNXModel", "model_path": str(model)},
        "systems": {
            "local": {
                "type": "LocalSystem",
                "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
            }
        },
        "data_configs": [data],
        "evaluators": {"speed": {"metrics": [latency]}},
        "passes": {
            "peephole": [{"type": "OnnxPeepholeOptimizer"}],
            "quantize": [
                {
                    "type": "OnnxStaticQuantization",
                    "data_config": "samples",
                    "quant_preprocess": True,
                    "per_channel": True,
                },
                {"type": "OnnxDynamicQuantization"},
            ],
        },
        "search_strategy": {"execution_order": "joint", "sampler": "sequential"},
        "evaluator": "speed",
        "target": "local",
        "host": "local",
        "cache_dir": str(output / "cache"),
        "output_dir": str(output / "run"),
        "log_severity_level": 2,
    }


def main():
    """Run it and put the winner where the benchmark looks for it."""
    model, samples, output = (Path(argument).resolve() for argument in sys.argv[1:4])
    output.mkdir(parents=True, exist_ok=True)
    import olive

    result = olive.run(config(model, samples, output))
    best = result.get_best_candidate()
    if best is None:
        raise SystemExit("Olive found no candidate")
    chosen = Path(best.model_path)
    (output / "model").mkdir(exist_ok=True)
    shutil.copyfile(chosen, output / "model" / "model.onnx")
    for path in chosen.parent.glob("*.data"):
        shutil.copyfile(path, output / "model" / path.name)
    (output / "about.json").write_text(json.dumps({"path": str(chosen), "numpy": np.__version__}))


if __name__ == "__main__":
    main()
