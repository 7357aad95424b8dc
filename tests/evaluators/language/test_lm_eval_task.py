import json

import pytest

from mopt.errors import UserError
from mopt.evaluators.language.lm_eval_task import is_lm_eval_task, read_lm_eval_task

pytest.importorskip("yaml")

ARC = """
task: my_arc
tag: [mine]
dataset_path: json
dataset_kwargs:
  data_files:
    test: arc.jsonl
output_type: multiple_choice
test_split: test
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: "{{choices.label.index(answerKey)}}"
doc_to_choice: "{{choices.text}}"
metric_list:
  - metric: acc
metadata:
  version: 1.0
"""
ROW = {"question": "Why?", "choices": {"text": ["so", 'it\'s "no"'], "label": ["A", "B"]}, "answerKey": "B"}


def write(tmp_path, text=ARC, *rows):
    (tmp_path / "arc.jsonl").write_text("\n".join(map(json.dumps, rows or [ROW])))
    path = tmp_path / "arc.yaml"
    path.write_text(text)
    return path


def test_a_task_as_it_is_written(tmp_path):
    path = write(tmp_path)
    assert is_lm_eval_task(path)
    (item,) = read_lm_eval_task(path)
    assert (item.name, item.context) == ("my_arc row 1", "Question: Why?\nAnswer:")
    assert (item.choices, item.answer, item.delimiter) == (("so", 'it\'s "no"'), 1, " ")


def test_columns_and_plain_values_in_the_place_of_templates(tmp_path):
    text = ARC.replace('doc_to_choice: "{{choices.text}}"', "doc_to_choice: [yes, no]".replace("yes, no", '"yes", "no"'))
    text = text.replace('"{{choices.label.index(answerKey)}}"', "answer").replace("test: arc.jsonl", "test: [arc.jsonl]")
    text = text.replace('"Question: {{question}}\\nAnswer:"', "question") + 'description: "Say it. "\ntarget_delimiter: ""\n'
    (item,) = read_lm_eval_task(write(tmp_path, text, {"question": "Is it?", "answer": "no"}))
    assert (item.context, item.choices, item.answer, item.delimiter) == ("Say it. Is it?", ("yes", "no"), 1, "")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("multiple_choice", "generate_until", "is no task with output_type: multiple_choice"),
        ("dataset_path: json", "dataset_path: allenai/ai2_arc", "not one local file"),
        ("arc.jsonl", "nothing.jsonl", "is not there"),
        ("test_split: test", "test_split: other", "not one local file of the split other"),
        ("tag: [mine]", "process_docs: !function utils.process", "runs code of its own"),
        ("tag: [mine]", "include: other.yaml", "has include, which mopt does not read"),
        ("tag: [mine]", "num_fewshot: 5", "puts 5 examples before each question"),
        ("{{question}}", "{{ nothing }}", "cannot be rendered"),
        ("{{question}}", "{{ question.__class__.__mro__ }}", "cannot be rendered"),
        ("{{question}}", "{% for %}", "cannot be rendered"),
        ('"{{choices.text}}"', '"{{question}}"', "the choices are no list"),
        ("{{choices.label.index(answerKey)}}", "7", "the target is none of its 2 choices"),
        ("doc_to_target", "doc_to_something", "has doc_to_something, which mopt does not read"),
        ("output_type", "[", "is no YAML"),
    ],
)
def test_what_is_refused(tmp_path, old, new, message):
    assert old in ARC
    with pytest.raises(UserError, match=message):
        read_lm_eval_task(write(tmp_path, ARC.replace(old, new, 1)))
