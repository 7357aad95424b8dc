"""The tokens that end an answer, as a Hugging Face folder says them."""

from __future__ import annotations

__all__ = ["stop_tokens"]

import json
from pathlib import Path

from mopt.errors import UserError


def stop_tokens(folder: Path) -> tuple[int, ...]:
    """Return the tokens that end an answer, sorted, by ``generation_config.json`` or else ``config.json``.

    Raises:
        UserError: When such a file is no JSON, or a token is no number.
    """
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            value = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
            if value is not None:
                return tuple(sorted({int(token) for token in (value if isinstance(value, list) else [value])}))
        except (ValueError, TypeError, AttributeError):
            raise UserError(f"{path} says no tokens that end an answer", "mend its eos_token_id") from None
    return ()
