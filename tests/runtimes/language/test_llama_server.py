from pathlib import Path

import pytest

from mopt.errors import NotApplicableError
from mopt.model.gguf import open_gguf
from mopt.runtimes.language._llama_server import TemplateServer
from tests.gguf_files import LLAMA, write_gguf


def test_no_template_is_made_up(tmp_path: Path) -> None:
    """llama-server would render ChatML; that it renders what the GGUF has is seen in ``test_llama_cpp.py``."""
    path = write_gguf(tmp_path / "model.gguf", {**LLAMA, "tokenizer.chat_template": ""})
    with pytest.raises(NotApplicableError, match="no chat template"):
        TemplateServer(path, open_gguf(path))
