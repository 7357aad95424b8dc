"""What a cache key of a pass of language models has."""

from mopt.passes.language.quantize_rtn import QuantizeRTN
from mopt.system.environments import find_environment


def test_the_key_has_the_options_and_the_versions_of_the_environment() -> None:
    key, other = QuantizeRTN().key(), QuantizeRTN(group_size=32).key()
    assert key["pass"] == "quantize_rtn"
    assert key["fields"] != other["fields"]
    installed = find_environment("llm_compressor")
    assert key["libraries"]["torch"] == (installed.version("torch") if installed else "")
