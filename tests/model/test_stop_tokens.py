import pytest

from mopt.errors import UserError
from mopt.model.stop_tokens import stop_tokens


def test_tokens_that_end_an_answer(tmp_path):
    assert stop_tokens(tmp_path) == ()
    (tmp_path / "config.json").write_text('{"eos_token_id": 2}')
    assert stop_tokens(tmp_path) == (2,)
    (tmp_path / "generation_config.json").write_text("{}")
    assert stop_tokens(tmp_path) == (2,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 5, 7]}')
    assert stop_tokens(tmp_path) == (5, 7)


@pytest.mark.parametrize("text", ["{", "[]", '{"eos_token_id": "x"}', '{"eos_token_id": {}}'])
def test_what_is_no_token(tmp_path, text):
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(UserError, match="says no tokens that end an answer"):
        stop_tokens(tmp_path)
