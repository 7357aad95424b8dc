import numpy as np
import pytest

from mopt.datasets.documents import Document
from mopt.datasets.windows import calibration_windows, prompt_windows, scored_windows, special_ends
from mopt.errors import UserError

BOS, EOS = 1, 2


def letters(text):
    return [ord(character) for character in text]


def with_start(text):
    return [BOS, *letters(text.replace("<s>", chr(BOS)))]


def with_both(text):
    return [BOS, *letters(text), EOS]


def document(text, name="a"):
    return Document(name, name, text)


@pytest.mark.parametrize(("tokenize", "ends"), [(letters, ([], [])), (with_start, ([BOS], [])), (with_both, ([BOS], [EOS]))])
def test_what_a_tokenizer_puts_around_a_text(tokenize, ends):
    assert special_ends(tokenize) == ends


@pytest.mark.parametrize("tokenize", [letters, with_start, with_both])
@pytest.mark.parametrize(("length", "stride"), [(8, 4), (8, 7), (5, 1), (100, 50), (9, 3), (2, 1)])
@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 30])
def test_each_token_is_scored_once_with_as_much_before_it_as_was_asked(tokenize, length, stride, size):
    text = "".join(chr(100 + place) for place in range(size))
    starts = tokenize is not letters
    if size == 1 and not starts:
        with pytest.raises(UserError, match="no document has two tokens"):
            scored_windows([document(text)], tokenize, length=length, stride=stride)
        return
    windows = scored_windows([document(text)], tokenize, length=length, stride=stride)
    assert windows.targets().tolist() == letters(text)[0 if starts else 1 :]
    assert windows.count == len(windows.targets()) == len(windows.groups())
    for number, (window, first) in enumerate(zip(windows.windows, windows.first, strict=True)):
        assert len(window) <= length
        assert (window[0] == BOS) == starts
        real = window[1:] if starts else window
        assert real.tolist() == list(range(real[0], real[0] + len(real)))
        before_first_scored = first + 1 - starts
        assert number == 0 or before_first_scored >= min(length - starts - stride, real[0] - 100 + before_first_scored)


def test_windows_begin_a_stride_apart_as_in_the_guide():
    windows = scored_windows([document("abcdefghij")], letters, length=6, stride=2)
    assert ["".join(map(chr, window)) for window in windows.windows] == ["abcdef", "cdefgh", "efghij"]
    assert windows.first == (0, 3, 3)


def test_no_window_has_two_documents_and_each_token_knows_its_own():
    windows = scored_windows([document("abcde", "x"), document("fgh", "y")], with_start, length=4, stride=2)
    assert windows.groups() == ["x"] * 5 + ["y"] * 3
    assert windows.size == {"x": 5, "y": 3}


def test_a_start_token_of_a_chat_template_is_no_second_one():
    windows = scored_windows([document("<s>hi")], with_start, length=8, stride=4)
    assert windows.windows[0].tolist() == [BOS, *letters("hi")]


def test_as_many_documents_as_possible_have_a_say():
    documents = [document("word " * 200, f"d{number}") for number in range(20)]
    windows = scored_windows(documents, letters, length=50, stride=25, most_tokens=2000)
    assert len(windows.size) == 20
    assert 1800 <= windows.count <= 2000
    assert sum(windows.size.values()) == windows.count + 20
    few = scored_windows(documents, letters, length=500, stride=250, most_tokens=2000)
    assert len(few.size) == 5


def test_pieces_of_one_document_wait_for_the_others():
    documents = [document(f"{name}{piece}" + "." * 98, name) for name in "xyz" for piece in range(3)]
    windows = scored_windows(documents, letters, length=50, stride=25, most_tokens=400)
    assert list(windows.size) == ["x", "y", "z"]
    begins = [chr(window[0]) + chr(window[1]) for window in windows.windows if chr(window[0]) in "xyz"]
    assert begins == ["x0", "y0", "z0", "x1", "y1"]
    text = "".join(map(chr, calibration_windows(documents, letters, length=100, count=4).ravel()))
    assert [text[place : place + 2] for place in range(0, 400, 100)] == ["x0", "y0", "z0", "x1"]


def test_bytes_are_those_of_the_text_that_is_scored():
    windows = scored_windows([document("é" * 100)], with_start, length=11, stride=5, most_tokens=20)
    assert windows.size == {"a": 2 * windows.count}


def test_a_character_of_many_tokens_is_not_cut_for_ever():
    windows = scored_windows([document("abc")], lambda text: [7] * 50 * len(text), length=10, stride=5, most_tokens=10)
    assert windows.size == {"a": 1}
    assert windows.count == 49


def test_scores_of_another_shape_are_refused():
    windows = scored_windows([document("abc")], letters, length=8, stride=4)
    assert windows.select([np.array([5.0, 6.0])]).tolist() == [5.0, 6.0]
    with pytest.raises(ValueError, match="3 scores for a window of 3 tokens"):
        windows.select([np.zeros(3)])


def test_calibration_windows_are_full():
    documents = [document("abcde"), document("fgh")]
    windows = calibration_windows(documents, with_both, length=4, count=9)
    assert windows.dtype == np.int32
    assert windows.tolist() == [[BOS, *letters("abc")], [*letters("de"), EOS, BOS], [*letters("fgh"), EOS]]
    assert calibration_windows(documents, with_both, length=4, count=1).shape == (1, 4)
    with pytest.raises(UserError, match="has 12 tokens, and a window has 13"):
        calibration_windows(documents, with_both, length=13, count=1)


def test_prompts_are_beginnings_of_different_documents():
    documents = [document("abcdefgh", "x"), document("second piece", "x"), document("ab", "y"), document("z" * 99, "z")]
    prompts = prompt_windows(documents, with_start, length=4, count=8)
    assert [prompt.tolist() for prompt in prompts] == [[BOS, *letters("abc")], [BOS, *letters("a")], [BOS, *letters("zzz")]]
    assert len(prompt_windows(documents, with_start, length=4, count=2)) == 2
