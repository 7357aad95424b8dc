"""What people read of a build of a language model."""

from pathlib import Path

from mopt.reports.language import closing_lines, language_rows, quality_sentence, render_files, speed_sentence
from tests.language_manifests import manifest, trial, trials
from tests.manifests import HOSTILE


def test_every_trial_has_a_row_with_its_figures_or_its_reason() -> None:
    rows = {row["name"]: row for row in language_rows(manifest())}
    assert rows["llama_cpp-q4_k_m"]["decode"] == "75.0/s"
    assert rows["llama_cpp-q4_k_m"]["outcome"] == "chosen"
    assert rows["llama_cpp-q4_k_m"]["agreement"] == "93.4%"
    assert rows["reference"]["loss"] == "\N{EN DASH}"
    assert rows["vllm-int4-rtn"]["outcome"].startswith("worse: log_loss")
    assert rows["openvino_genai-int4"]["outcome"].startswith("skipped: openvino_genai not installed")


def test_sentences_say_how_fast_over_what_and_how_right() -> None:
    assert "2.50 times as fast as llama_cpp-bf16" in speed_sentence(manifest())
    said = quality_sentence(manifest())
    assert "no more than +0.020" in said
    assert "+0.032 is allowed" in said


def test_the_closing_lines_name_a_server_that_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "serving" / "llama_cpp"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("start it")
    lines = closing_lines(manifest(), tmp_path)
    assert any("serving/llama_cpp/README.md" in line for line in lines)
    assert lines[-1].endswith("--server llama_cpp where it will be served.")


def test_hostile_names_are_text_in_both_forms() -> None:
    hostile = manifest(name=HOSTILE, trials=(*trials(), trial(HOSTILE, speed=None)), warnings=(HOSTILE,))
    page = render_files(hostile)
    assert "<script" not in page["report.html"]
    assert "\x00" not in page["report.html"] + page["report.md"]
    assert "\\<script" in page["report.md"]
    assert " <script" not in page["report.md"]
