from pathlib import Path

import pytest

from mopt.artifacts.serving._files.llama_cpp_serve import _parser

SETTINGS = {"name": "tiny", "model": "../../model/model.gguf", "context": 256, "threads": 3, "parallel": 4, "cache_type": "f16"}


def test_it_serves_what_was_judged() -> None:
    options = _parser(SETTINGS).parse_args([])
    assert (options.host, options.port, options.context, options.threads, options.parallel) == ("127.0.0.1", 8080, 256, 3, 4)
    assert options.model.parts[-5:] == ("_files", "..", "..", "model", "model.gguf"), "from where the script lies"


def test_all_of_it_can_be_said_otherwise() -> None:
    arguments = ["--host", "0.0.0.0", "--port", "1", "--model", "m.gguf", "--threads", "5", "--parallel", "6", "--context", "7"]
    options = _parser(SETTINGS).parse_args(arguments)
    assert (options.host, options.port, options.model, options.threads) == ("0.0.0.0", 1, Path("m.gguf"), 5)
    assert (options.parallel, options.context) == (6, 7)
    with pytest.raises(SystemExit):
        _parser(SETTINGS).parse_args(["--portt", "1"])
