import json

import pytest

from mopt.errors import CheckFailedError, UserError
from tests.cli.running import run
from tests.sketches.test_exposition import report


@pytest.fixture
def told(monkeypatch):
    """What the workflow is given; it answers that nothing has drifted."""
    given = {}

    def drift(artifact, requests, **options):
        given.update(options, artifact=str(artifact), requests=str(requests))
        return report(found=False)

    monkeypatch.setattr("mopt.workflows.drift.drift", drift)
    return given


def test_what_has_not_drifted_leaves_in_peace(told):
    shown = run("drift", "m.mopt", "--requests", "r.npz", "--quiet")
    assert shown.exit_code == 0
    assert shown.stdout.splitlines()[-1] == "result    no drift found in 1 number"
    assert told["confidence"] is None
    assert (told["artifact"], told["requests"]) == ("m.mopt", "r.npz")


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_what_has_drifted_is_shown_and_leaves_with_3(monkeypatch, flags, capsys):
    monkeypatch.setattr("mopt.workflows.drift.drift", lambda *_, **__: report(tensor="pixels"))
    from mopt.cli import main

    monkeypatch.setattr("sys.argv", ["mopt", "drift", "m.mopt", "--requests", "r.npz", "--quiet", *flags])
    with pytest.raises(SystemExit) as leaving:
        main()
    assert leaving.value.code == CheckFailedError.exit_code == 3
    shown = capsys.readouterr()
    assert "requests have drifted from the samples of the build: input pixels" in shown.err
    if flags:
        assert json.loads(shown.out)["found"] is True
    else:
        assert "DRIFT, look 2" in shown.out
        assert "drift     input pixels, value[3]: 1.00 in the samples, 2.00 in the requests" in shown.out


@pytest.mark.parametrize("confidence", ["0", "1", "99"])
def test_a_confidence_is_a_share(told, confidence):
    with pytest.raises(UserError, match="no share"):
        run("drift", "m.mopt", "--requests", "r.npz", "--confidence", confidence)
    assert not told
