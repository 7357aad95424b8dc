"""Write the table of architectures that ONNX Runtime GenAI and OpenVINO GenAI export, from their own code as it is installed.

Run it after their versions change: ``python docs/generate_genai_capabilities.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from mopt.system.environments import find_environment

TABLE = Path(__file__).parents[1] / "mopt/artifacts/serving/language/_genai_capabilities.json"

_ONNXRUNTIME = """
import json, re
from importlib import metadata
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
(path,) = (file.locate() for file in metadata.files("onnxruntime-genai") if str(file).endswith("models/builder.py"))
text = open(path, encoding="utf-8").read()
branches = text[text.index("# List architecture options") :].split("elif ")
found = set()
for branch in branches:
    condition = branch.partition(":\\n")[0]
    if 'execution_provider = "cuda"' not in branch:  # it would not run on a CPU
        found |= set(re.findall(r'architectures\\[0\\] == "(\\w+)"', condition))
found &= set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())  # others need code of the model
print(json.dumps({"source": "onnxruntime-genai " + metadata.version("onnxruntime-genai"), "architectures": sorted(found)}))
"""
_OPENVINO = """
import json
from importlib import metadata
import optimum.exporters.openvino
from optimum.exporters.tasks import TasksManager
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
found = set()
for kind in TasksManager._SUPPORTED_MODEL_TYPE:
    try:
        tasks = TasksManager.get_supported_tasks_for_model_type(kind, exporter="openvino", library_name="transformers")
    except KeyError:
        continue
    if "text-generation-with-past" in tasks and kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:  # others need code of the model
        found.add(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind])
print(json.dumps({"source": "optimum-intel " + metadata.version("optimum-intel"), "architectures": sorted(found)}))
"""


def _asked(name: str, program: str) -> dict[str, object]:
    environment = find_environment(name)
    if environment is None:
        raise SystemExit(f"mopt tools install {name}")
    variables = {**os.environ, "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [environment.python, "-I", "-c", program], capture_output=True, text=True, check=True, env=variables
    )
    answer: dict[str, object] = json.loads(result.stdout.strip().splitlines()[-1])
    names = answer["architectures"]
    assert isinstance(names, list)
    causal = [name for name in names if name.endswith(("ForCausalLM", "LMHeadModel"))]
    return {**answer, "architectures": causal}


def table() -> dict[str, object]:
    """Return what the installed libraries know."""
    return {
        "onnxruntime_genai": _asked("onnxruntime_genai", _ONNXRUNTIME),
        "openvino_genai": _asked("openvino_genai", _OPENVINO),
    }


if __name__ == "__main__":
    TABLE.write_text(json.dumps(table(), indent=1) + "\n", encoding="utf-8")
