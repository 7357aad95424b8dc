import json

import pytest

from mopt.errors import UserError
from tests.cli.running import run


def test_the_artifact_is_called_after_the_target(received):
    shown = run("rebuild", "here/model.mopt", "--target", "nvidia-l4", "--quiet").stdout
    assert "artifact  here/model-nvidia-l4.mopt" in shown
    assert "engine    an L4, " in shown
    assert "here/model-nvidia-l4.mopt" in received[0]


def test_programs_get_where_it_is(received):
    content = json.loads(run("rebuild", "m.mopt", "--target", "nvidia-l4", "--out", "o", "--json").stdout)
    assert content == {"artifact": "o", "target": "nvidia-l4", "runtime_fields": {"threads": 2}}


def test_the_target_must_be_named(received):
    with pytest.raises(UserError, match="the target is missing"):
        run("rebuild", "m.mopt")
    assert not received
