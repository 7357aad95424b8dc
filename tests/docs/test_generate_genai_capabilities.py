"""The table of architectures is what the installed libraries say."""

import importlib.util
import json
from pathlib import Path

import pytest

from tests.genai import lacking

MISSING = lacking("onnxruntime_genai") or lacking("openvino_genai")
SCRIPT = Path(__file__).parents[2] / "docs" / "generate_genai_capabilities.py"


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_the_table_is_current():
    spec = importlib.util.spec_from_file_location("generate_genai_capabilities", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert json.loads(script.TABLE.read_text()) == script.table()
