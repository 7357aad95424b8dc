import json

import numpy as np
import pytest

from mopt.errors import UserError
from mopt.evaluators.language.choices import ChoiceItem, Choices, choice_rows, choice_windows, read_choices
from mopt.evaluators.noninferiority import noninferiority_test
from mopt.evaluators.tolerance import Tolerance
from mopt.runtimes.language._base import TokenScores

BOS = 1


def tokenize(text):
    return [BOS, *map(ord, text)]


def write(tmp_path, *rows):
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"question": "Q", "choices": ["a", "b"], "answer": 1}, ("Q", ("a", "b"), 1)),
        ({"question": "Q", "choices": ["a", "b"], "answer": "B"}, ("Q", ("a", "b"), 1)),
        ({"query": "Q", "options": ["a", "b"], "gold": "0"}, ("Q", ("a", "b"), 0)),
        ({"ctx": "Q", "endings": ["a", "b"], "label": "1"}, ("Q", ("a", "b"), 1)),
        ({"question": "Q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}, ("Q", ("a", "b"), 1)),
        ({"question": "Q", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "1"}, ("Q", ("a", "b"), 0)),
        ({"goal": "Q", "sol1": "a", "sol2": "b", "label": 0}, ("Q", ("a", "b"), 0)),
        ({"question": "Q", "A": "a", "B": "b", "C": "c", "answer": "C"}, ("Q", ("a", "b", "c"), 2)),
        ({"question": "Q", "choices": ["yes", "no"], "answer": "no"}, ("Q", ("yes", "no"), 1)),
        ({"context": "P", "question": "Q", "choices": ["a", "b"], "answer": "(b)"}, ("P\nQ", ("a", "b"), 1)),
        ({"question": "Q", "choices": [{"text": "a"}, {"text": "b"}], "answer": 2}, ("Q", ("a", "b"), 1)),
        ({"sentence": "He _ it", "option1": "sees", "option2": "eats", "answer": "2"}, ("He", ("sees it", "eats it"), 1)),
    ],
)
def test_names_that_are_understood(tmp_path, row, expected):
    (item,) = read_choices(write(tmp_path, row))
    assert (item.context, item.choices, item.answer) == expected


def test_indices_are_from_one_where_the_whole_file_says_so(tmp_path):
    rows = [{"question": "Q", "choices": ["a", "b"], "answer": answer} for answer in (1, 2, 1)]
    assert [item.answer for item in read_choices(write(tmp_path, *rows))] == [0, 1, 0]
    rows = [rows[0], rows[0] | {"answer": 0}, rows[1]]
    with pytest.raises(UserError, match="row 3: the answer 2 is none of its 2 choices"):
        read_choices(write(tmp_path, *rows))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"choices": ["a", "b"], "answer": 0}, "row 1 has no question"),
        ({"question": "Q", "choices": ["a"], "answer": 0}, "row 1 has no two choices that differ"),
        ({"question": "Q", "choices": ["a", "a"], "answer": 0}, "row 1 has no two choices that differ"),
        ({"question": "Q", "choices": ["a", "b"]}, "row 1 has no answer"),
        ({"question": "Q", "choices": ["a", "b"], "answer": "Z"}, "the answer Z is none"),
        ({"question": "Q", "choices": ["a", "b"], "answer": -1}, "the answer -1 is none"),
        (3, "line 1 is no JSON object"),
    ],
)
def test_what_is_no_question(tmp_path, row, message):
    with pytest.raises(UserError, match=message):
        read_choices(write(tmp_path, row))


def test_files_that_are_none(tmp_path):
    with pytest.raises(UserError, match="is no table of questions"):
        read_choices(tmp_path / "none.jsonl")
    (tmp_path / "a.jsonl").write_bytes(b"\xff")
    with pytest.raises(UserError, match="line 1 is not UTF-8"):
        read_choices(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(UserError, match="there is no question"):
        read_choices(tmp_path / "a.jsonl")


def test_windows_end_with_the_choice_and_its_space():
    item = ChoiceItem("q", "Why?  ", ("so", "é no"), 0)
    windows = choice_windows([item], tokenize, context=64)
    assert ["".join(map(chr, window[1:])) for window in windows.windows] == ["Why?   so", "Why?   é no"]
    assert windows.counts == (5, 7)
    assert all(window[0] == BOS for window in windows.windows)
    alone = choice_windows([ChoiceItem("q", "", ("so", "no"), 0)], tokenize, context=64)
    assert alone.counts == (2, 2)


def test_a_context_that_is_too_long_loses_its_beginning():
    windows = choice_windows([ChoiceItem("q", "x" * 50 + "end", ("so", "no"), 0)], tokenize, context=10)
    assert ["".join(map(chr, window[1:])) for window in windows.windows] == ["xxxend so", "xxxend no"]
    assert windows.windows[0][0] == BOS
    assert windows.cut == 2
    with pytest.raises(UserError, match="a choice has 21 tokens"):
        choice_windows([ChoiceItem("q", "x", ("y" * 20, "no"), 0)], tokenize, context=10)


def scores(*logprob):
    logprob = np.float32(logprob)
    return TokenScores(logprob, np.zeros((len(logprob), 1), np.int32), logprob[:, None])


def test_the_norms_of_lm_eval():
    item = ChoiceItem("q", "Q", ("aaaa", "bb", "éé"), 1)
    windows = choice_windows([item], tokenize, context=64)
    assert windows.counts == (5, 3, 3)
    # sums -4, -2.4 and -2; by character -1, -1.2 and -1; by byte -1, -1.2 and -0.5
    made = [scores(-9, *[-0.8] * 5), scores(-9, *[-0.8] * 3), scores(-9, *[-2 / 3] * 3)]
    assert choice_rows(made, windows).tolist() == [[0, 0, 0]]
    made[0] = scores(-9, *[-2] * 5)
    made[1] = scores(-9, *[-0.5] * 3)
    made[2] = scores(-9, *[-0.8] * 3)
    rows = choice_rows(made, windows)
    assert rows.tolist() == [[1, 1, 0]]
    assert [Choices(norm=norm).value(rows) for norm in ("none", "characters", "bytes")] == [1, 1, 0]


def test_right_and_wrong_are_judged_by_the_paired_test():
    reference = np.ones((200, 3))
    candidate = reference.copy()
    candidate[:20] = 0
    quality = noninferiority_test(Choices(), candidate, reference, Tolerance.parse("1pp"), fail_when="proven")
    assert (quality.verdict, quality.proof) == ("fail", "labels")
    assert quality.difference == pytest.approx(-0.1)
    assert noninferiority_test(Choices(), reference, reference, Tolerance.parse("2pp")).verdict == "pass"
