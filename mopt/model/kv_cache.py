"""What the cache of keys and values of a language model takes."""

from __future__ import annotations

__all__ = ["cache_bytes_per_token"]

from mopt.model.checkpoint import Checkpoint


def cache_bytes_per_token(checkpoint: Checkpoint, element_bytes: int = 2) -> int:
    """Return bytes of keys and values of one token in all layers, as if none of them had a window.

    From ``AttentionSpec`` in vLLM's ``v1/kv_cache_interface.py``; a layer of latent attention keeps one vector for all heads.

    Args:
        checkpoint: The model.
        element_bytes: Of a number in the cache: 2 for the type of most models, 1 for FP8.
    """
    config = checkpoint.text_config
    heads = int(config.get("num_attention_heads") or 1)
    width = int(config.get("head_dim") or -(-int(config.get("hidden_size") or 1) // heads))
    kept = 2 * width * int(config.get("num_key_value_heads") or heads)
    if latent := int(config.get("kv_lora_rank") or 0):
        kept = latent + int(config.get("qk_rope_head_dim") or 0)
    return int(config.get("num_hidden_layers") or 1) * kept * element_bytes
