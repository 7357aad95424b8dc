"""Manifests as a build of a language model would write them."""

from __future__ import annotations

from typing import Any

from mopt.errors import Rejection
from mopt.records._base import stamp
from mopt.records.divergence import Divergence, GreedyDivergence
from mopt.records.divergence import Estimate as TokenEstimate
from mopt.records.language import (
    Conversation,
    GenerationSpeed,
    GoldenText,
    LanguageGolden,
    LanguageManifest,
    LanguageSource,
    LanguageTrial,
    Outlay,
    ScoredText,
)
from mopt.records.measurement import Estimate, Machine
from mopt.records.quality import Quality
from mopt.records.trial import Outcome


def estimate(value: float, spread: float = 0.02) -> Estimate:
    return Estimate(value=value, low=value * (1 - spread), high=value * (1 + spread), count=5)


def speed(decode: float, prefill: float, ratio: float | None = None, **changes: Any) -> GenerationSpeed:
    fields: dict[str, Any] = {
        "prompt_tokens": 256,
        "answer_tokens": 48,
        "prefill": estimate(prefill),
        "decode": estimate(decode),
        "prefill_ratio": estimate(ratio) if ratio else None,
        "decode_ratio": estimate(ratio) if ratio else None,
    }
    return GenerationSpeed(**(fields | changes))


def divergence() -> Divergence:
    def mean(value: float) -> TokenEstimate:
        return TokenEstimate(value=value, low=value * 0.9, high=value * 1.1)

    return Divergence(
        tokens=4095, documents=40, confidence=0.95, top=64, exact=False, kl=mean(0.02), kl_quantiles={"0.5": 0.01},
        agreement=mean(0.934), shift=mean(-0.01), distance=mean(0.08), distance_quantiles={"0.5": 0.05}, coverage=0.99,
        greedy=GreedyDivergence(prompts=8, tokens=32, identical=0.25, median=11.0, positions=(None, 3, 11, 12)),
    )  # fmt: skip


def text(log_loss: float) -> ScoredText:
    return ScoredText(
        tokens=4095, window=512, stride=512, log_loss=log_loss, perplexity=2.718281828**log_loss, bits_per_byte=1.3,
        divergence=divergence(),
    )  # fmt: skip


def quality(difference: float, bound: float, verdict: str = "pass") -> Quality:
    return Quality(
        metric="log_loss", value=3.2 - difference, reference=3.2, difference=difference, bound=bound, allowed=-0.032,
        confidence=0.95, count=4095, groups=40, verdict=verdict,
    )  # fmt: skip


def trial(name: str, **changes: Any) -> LanguageTrial:
    fields: dict[str, Any] = {
        "name": name,
        "runtime": name.partition("-")[0],
        "runtime_fields": {"threads": 2, "context": 2048},
        "model_format": "gguf",
        "model_digest": "a" * 64,
        "size_bytes": 90_000_000,
        "bits_per_weight": 4.9,
        "method": "gguf",
        "text": text(3.21),
        "quality": quality(-0.01, -0.02),
    }
    return LanguageTrial(**(fields | changes))


def trials() -> tuple[LanguageTrial, ...]:
    def out(rejection: Rejection, reason: str) -> Outcome:
        return Outcome(rejection=rejection, reason=reason)

    return (
        trial("reference", runtime="transformers", quality=None, text=text(3.2), size_bytes=269_000_000, bits_per_weight=16.0),
        trial(
            "llama_cpp-bf16", speed=speed(30.0, 200.0), size_bytes=270_000_000, bits_per_weight=16.0,
            outcome=out(Rejection.NOT_BEST, "30.0 tokens/s, llama_cpp-q4_k_m 75.0 tokens/s"),
        ),
        trial("llama_cpp-q4_k_m", speed=speed(75.0, 260.0, 2.5)),
        trial(
            "vllm-int4-rtn", quality=quality(-0.2, -0.24, "fail"), text=text(3.4),
            outcome=out(Rejection.WORSE, "log_loss \u22120.2 where \u22120.032 is allowed"),
        ),
        trial(
            "openvino_genai-int4", text=None, quality=None, size_bytes=None, bits_per_weight=None,
            outcome=out(Rejection.SKIPPED, "openvino_genai not installed; mopt tools install openvino_genai"),
        ),
    )  # fmt: skip


def manifest(**changes: Any) -> LanguageManifest:
    fields: dict[str, Any] = {
        **stamp(),
        "name": "smollm2",
        "command": "mopt build smollm2 --data texts",
        "recipe": {"model": "smollm2", "data": {"path": "texts"}, "tolerance": "1%", "serve": ["llama_cpp"]},
        "target": {"name": "cpu"},
        "machine": Machine(cpu="a CPU", isa=("avx2",), cores=2, memory_bytes=1 << 34, system="Linux", python="3.11"),
        "noise": {},
        "versions": {"xllamacpp": "1"},
        "source": LanguageSource(
            source="smollm2", digest="b" * 64, format="huggingface", architecture="LlamaForCausalLM", parameters=134_515_008,
            size_bytes=269_000_000, vocabulary=49152, positions=8192, licence="apache-2.0", chat=True,
        ),
        "expected": Outlay(memory_bytes=1 << 30, seconds=240.0, passes_seconds=120.0, disk_bytes=1 << 30),
        "data": {"documents": 80},
        "chosen": "llama_cpp-q4_k_m",
        "runtime": "llama_cpp",
        "runtime_fields": {"threads": 2, "context": 2048},
        "format": "gguf",
        "context": 2048,
        "why": "of 2 candidates that were proven to hold the tolerance it writes the most tokens per second: 75.0 tokens/s",
        "baseline": "llama_cpp-bf16",
        "trials": trials(),
        "golden": LanguageGolden(
            texts=(GoldenText(text="Hello there", ids=(1, 7, 9), logprobs=(-2.0, -3.0), greedy=(4, 5)),),
            conversations=(Conversation(messages=({"role": "user", "content": "Hi"},), prompt="user: Hi"),),
            tolerance=0.03,
        ),
        "files": {},
    }  # fmt: skip
    return LanguageManifest(**(fields | changes))
