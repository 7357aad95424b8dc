"""Write the table of architectures that llama.cpp's converter takes and its library loads, from their own code.

Run it after their versions change: ``python ci/llama_cpp_capabilities.py``.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from mopt.system.environments import find_environment

TABLE = Path(__file__).parents[1] / "mopt/artifacts/serving/language/_llama_cpp_capabilities.json"

_CONVERTER = """
import json, sys
from importlib import metadata
sys.path.insert(0, ROOT)
from mopt.errors import NotApplicableError
from mopt.passes.language._gguf_converter import architecture_of, load_converter
conversion, names = load_converter(), {}
for name in conversion.TEXT_MODEL_MAP:
    try:
        names[name] = architecture_of(conversion, name)[1]
    except NotApplicableError:
        pass
print(json.dumps({"version": metadata.version("auto-round"), "names": names}))
"""
_LIBRARY = """
import json, sys, tempfile
from pathlib import Path
sys.path.insert(0, ROOT)
import gguf
from mopt.system.llama_api import open_library
library, known = open_library(), []
with tempfile.TemporaryDirectory() as scratch:
    for name in json.load(sys.stdin):
        writer = gguf.GGUFWriter(Path(scratch, "model.gguf"), name)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        library.log.clear()
        library.llama_model_load_from_file(str(Path(scratch, "model.gguf")).encode(), library.llama_model_default_params())
        if "unknown model architecture" not in "".join(library.log):
            known.append(name)
print(json.dumps({"version": library.version, "names": known}))
"""


def _asked(name: str, program: str, given: str = "") -> dict[str, Any]:
    environment = find_environment(name)
    if environment is None:
        raise SystemExit(f"mopt tools install {name}")
    result = subprocess.run(
        [environment.python, "-I", "-c", f"ROOT = {str(Path(__file__).parents[1])!r}\n{program}"],
        input=given,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    answer: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
    return answer


def table() -> dict[str, Any]:
    """Return what the installed libraries know: names of transformers, each with that of llama.cpp."""
    converter = _asked("llm_compressor", _CONVERTER)
    names: dict[str, str] = converter["names"]
    library = _asked("llama_cpp", _LIBRARY, json.dumps(sorted(set(names.values()))))
    causal = {
        name: kind
        for name, kind in sorted(names.items())
        if name.endswith(("ForCausalLM", "LMHeadModel")) and kind in library["names"]
    }
    return {
        "source": f"llama.cpp's converter in auto-round {converter['version']}, xllamacpp {library['version']}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "architectures": causal,
    }


if __name__ == "__main__":
    TABLE.write_text(json.dumps(table(), indent=1) + "\n", encoding="utf-8")
