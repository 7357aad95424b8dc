# ruff: noqa: RUF001 the report is written in typographic signs

from mopt.reports.verdict import quality_sentence, verdict, verdict_tiles
from tests.manifests import manifest, profile, quality, trial, trials


def test_the_verdict_has_both_ends_of_the_batch_sizes_and_the_bound():
    text = " ".join(verdict(manifest()))
    assert "2.66× (2.62 to 2.70) at batch 1" in text
    assert "2.91× (2.86 to 2.95) at batch 32" in text
    assert "98.22 % against 98.42 %" in text
    assert "no lower than −0.460 pp" in text
    assert text.endswith("pass the gate.")


def test_an_inconclusive_verdict_says_what_the_samples_cannot_exclude():
    text = quality_sentence(quality(-0.002, -0.041, "inconclusive", count=60))
    assert "within the tolerance" in text
    assert "60 samples can only exclude a drop larger than 4.10 pp" in text
    assert "About 900 samples would decide" in text


def test_a_failed_verdict_says_worse():
    assert "worse than the tolerance admits" in quality_sentence(quality(-0.06, -0.07, "fail"))


def test_other_metrics_keep_their_own_units():
    text = quality_sentence(quality(-0.5, -0.7).model_copy(update={"metric": "perplexity", "value": 12.5}))
    assert "12.50" in text
    assert "pp" not in text
    assert "%" not in text.replace("95 %", "")


def test_a_single_batch_size_has_one_tile():
    one = trial("onnxruntime-int8", 2.0, quality(0, 0), None, profile=profile(4.2, 2.0, (1,)))
    names = [tile.name for tile in verdict_tiles(manifest(trials=(trials()[0], one)))]
    assert [name for name in names if name.startswith("Speed-up, batch")] == ["Speed-up, batch 1"]
