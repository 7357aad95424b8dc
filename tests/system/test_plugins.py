import pytest

from mopt.errors import UserError
from mopt.system import plugins


@pytest.mark.parametrize("kind", sorted(plugins.KINDS))
def test_every_plugin_loads_and_is_the_only_public_name(kind):
    assert plugins.names(kind)
    for name in plugins.names(kind):
        plugin = plugins.load(kind, name)
        assert plugin.__doc__


def test_names_are_found_without_importing_the_plugins():
    import subprocess
    import sys

    code = (
        "import sys; from mopt.system import plugins; plugins.names('passes'); "
        "print([m for m in sys.modules if m.startswith('mopt.passes.') or m in ('onnx', 'numpy')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_unknown_plugin_names_the_nearest():
    with pytest.raises(UserError) as caught:
        plugins.load("runtimes", "onxruntime")
    assert "onxruntime" in caught.value.message
    assert caught.value.hint == "did you mean onnxruntime?"


def test_nearest_lists_everything_when_nothing_is_near():
    assert plugins.nearest("zzz", ["alpha", "beta"]) == "choose from: alpha, beta"
