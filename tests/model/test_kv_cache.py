from mopt.model.checkpoint import Checkpoint
from mopt.model.kv_cache import cache_bytes_per_token


def bytes_of(config, element=2):
    return cache_bytes_per_token(Checkpoint(None, config, {}), element)


def test_keys_and_values_of_the_heads_that_have_their_own_are_counted():
    llama = {"num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096, "num_hidden_layers": 32}
    assert bytes_of(llama) == 32 * 2 * 8 * 128 * 2
    assert bytes_of({**llama, "head_dim": 64}, 1) == 32 * 2 * 8 * 64
    assert bytes_of({key: value for key, value in llama.items() if key != "num_key_value_heads"}) == 32 * 2 * 32 * 128 * 2


def test_latent_attention_keeps_one_vector():
    config = {
        "num_attention_heads": 128,
        "hidden_size": 7168,
        "num_hidden_layers": 2,
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
    }
    assert bytes_of(config) == 2 * 576 * 2


def test_the_text_model_of_several_kinds_of_input_counts():
    inner = {"num_attention_heads": 2, "hidden_size": 8, "num_hidden_layers": 3}
    assert bytes_of({"text_config": inner}) == 3 * 2 * 2 * 4 * 2
