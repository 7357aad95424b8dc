import json

import pytest

from mopt.errors import CheckFailedError
from mopt.records.benchmark import Verification
from tests.cli.running import run


def verified(monkeypatch, *problems):
    result = Verification(
        ok=not problems, problems=problems, warnings=("built elsewhere",), files=7, samples=3, summary="scores within 1e-06",
        largest_difference={"scores": 1e-6},
    )  # fmt: skip
    monkeypatch.setattr("mopt.workflows.verify.verify", lambda _, progress: result)
    return result


def test_what_is_as_it_was_built_says_so(monkeypatch):
    verified(monkeypatch)
    shown = run("verify", "m.mopt").stdout
    assert shown.splitlines() == [
        "note      built elsewhere",
        "files     7 checked",
        "samples   3 replayed, scores within 1e-06",
        "result    as it was built",
    ]


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_what_is_not_fails_after_it_was_shown(monkeypatch, flags, capsys):
    result = verified(monkeypatch, "model/model.onnx: changed")
    from mopt.cli import main

    monkeypatch.setattr("sys.argv", ["mopt", "verify", "m.mopt", *flags])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == CheckFailedError.exit_code
    shown = capsys.readouterr()
    assert "m.mopt is not what was built" in shown.err
    if flags:
        assert json.loads(shown.out) == json.loads(result.model_dump_json())
    else:
        assert "wrong     model/model.onnx: changed" in shown.out
        assert "NOT as it was built" in shown.out
