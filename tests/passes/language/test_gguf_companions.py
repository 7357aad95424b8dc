from pathlib import Path

from mopt.passes.language._gguf_companions import copy_gguf_companions


def test_what_a_gguf_does_not_hold_itself_lies_beside_it(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    for name in (
        "LICENSE.txt",
        "README.md",
        "generation_config.json",
        "tokenizer.json",
        "config.json",
        "model.safetensors",
        "x.py",
    ):
        (source / name).write_text(name)
    copied = copy_gguf_companions(source, target)
    assert copied == ["LICENSE.txt", "README.md", "generation_config.json"]
    assert sorted(path.name for path in target.iterdir()) == copied
