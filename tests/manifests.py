"""Manifests as a build would write them."""

from __future__ import annotations

from typing import Any

from mopt.errors import Rejection
from mopt.model.signature import Signature, TensorSpec
from mopt.records.manifest import Golden, Manifest
from mopt.records.measurement import BatchProfile, Estimate, Machine, Profile
from mopt.records.quality import Quality
from mopt.records.serving import Batching
from mopt.records.trial import ExportRecord, Outcome, PassRecord, TrialRecord

HOSTILE = '<script>alert("x")</script>|`$\\frac$`\x00\n](javascript:1) *b* _x'
BATCHES = (1, 2, 4, 8, 16, 32)


def estimate(value: float, spread: float = 0.02, count: int = 400) -> Estimate:
    return Estimate(value=value, low=value * (1 - spread), high=value * (1 + spread), count=count)


def profile(base: float, speed: float, batches: tuple[int, ...] = BATCHES, depth: str = "full") -> Profile:
    """Latency of ``base / speed`` ms at batch 1 that grows a little less than the batch does."""

    def entry(batch: int) -> BatchProfile:
        p50 = base / speed * (0.3 + 0.7 * batch)
        return BatchProfile(
            batch=batch,
            p50=estimate(p50),
            p90=estimate(p50 * 1.1),
            p99=estimate(p50 * 1.35, 0.06),
            mean=p50 * 1.03,
            samples=(p50, p50 * 1.1),
            throughput=batch / p50 * 1e3,
            ratio=estimate(speed * (1 + 0.02 * batch**0.5), 0.015) if depth == "full" else None,
        )

    return Profile(
        threads=2,
        load_ms=41.7 / speed,
        first_ms=9.1,
        peak_bytes=int(212e6 / speed**0.3),
        batches=tuple(map(entry, batches)),
        depth=depth,
        limit="the largest batch that was asked for",
    )


def quality(difference: float, bound: float, verdict: str = "pass", count: int = 1200) -> Quality:
    return Quality(
        metric="accuracy",
        value=0.9842 + difference,
        reference=0.9842,
        difference=difference,
        bound=bound,
        allowed=-0.01,
        confidence=0.95,
        count=count,
        verdict=verdict,
        samples_to_decide=900 if verdict == "inconclusive" else None,
        fidelity={"logits: cosine": 0.99987, "logits: SNR, dB": float("inf")},
    )


def trial(name: str, speed: float | None, judged: Quality | None, outcome: Outcome | None, **changes: Any) -> TrialRecord:
    fields: dict[str, Any] = {
        "name": name,
        "runtime": "openvino" if "openvino" in name else "onnxruntime",
        "runtime_fields": {"threads": 2},
        "passes": (
            PassRecord(name="fold_constants", fields={"limit": 1 << 20}, modified=False, cached=True, seconds=0.0),
            PassRecord(
                name="quantize_static",
                fields={"observer": "entropy", "per_channel": True},
                modified=True,
                cached=False,
                seconds=12.4,
                detail={"quantized": {"Conv": 53, "MatMul": 1}, "left in float": ["Softmax"]},
            ),
        ),
        "model_format": "onnx",
        "model_digest": "a" * 64,
        "size_bytes": int(102.4e6 / (speed or 1.0)),
        "evidence": {"integer": {"QLinearConv": 53, "QGemm": 1}, "float": {}, "dequantize_left": 0},
        "quality": judged,
        "profile": profile(4.2, speed) if speed else None,
        "outcome": outcome,
    }
    return TrialRecord(**(fields | changes))


def trials(name: str = "onnxruntime-int8") -> tuple[TrialRecord, ...]:
    def out(rejection: Rejection, reason: str) -> Outcome:
        return Outcome(rejection=rejection, reason=reason)

    return (
        trial("onnxruntime-fp32", 1.0, quality(0.0, 0.0), None, passes=(), evidence={}),
        trial(name, 2.61, quality(-0.002, -0.0046), None),
        trial("openvino-int8", 2.4, quality(-0.0012, -0.0041), out(Rejection.NOT_BEST, "8 % slower than the chosen one")),
        trial("openvino-fp32", 1.31, quality(0.0, -0.0002), out(Rejection.NOT_BEST, "half as fast as the chosen one")),
        trial(
            "onnxruntime-int8-minmax",
            2.6,
            quality(-0.064, -0.079, "fail"),
            out(Rejection.WORSE, "accuracy drops by 6.40 pp, at least 4.90 pp; 1.00 pp is allowed"),
        ),
        trial(
            "onnxruntime-int4",
            1.7,
            quality(-0.0071, -0.0149, "inconclusive"),
            out(Rejection.INCONCLUSIVE, "a drop of 1.49 pp cannot be excluded; about 900 samples would decide"),
        ),
        trial(
            "onnxruntime-int8-dynamic",
            0.83,
            quality(-0.0009, -0.0031),
            out(Rejection.SLOWER, "0.830 of the reference's speed (0.820 to 0.840)"),
            profile=profile(4.2, 0.83, (1, 8), "screening"),
        ),
        trial("onnxruntime-fp16", None, None, out(Rejection.CRASHED, "the process died of SIGSEGV"), size_bytes=None),
        trial("openvino-bf16", None, None, out(Rejection.UNSUPPORTED, "the target has no BF16 arithmetic")),
        trial("onnxruntime-percentile", None, None, out(Rejection.NOT_FINITE, "output logits has NaN")),
        trial("onnxruntime-hqq", None, None, out(Rejection.HUNG, "no answer within 600 s")),
        trial("onnxruntime-gptq", None, None, out(Rejection.MEMORY, "needs 31 GB, and 24 GB is there")),
    )


def signature(**changes: Any) -> Signature:
    fields: dict[str, Any] = {
        "inputs": (TensorSpec(name="images", dtype="float32", shape=("batch", 3, 224, 224)),),
        "outputs": (TensorSpec(name="logits", dtype="float32", shape=("batch", 1000)),),
        "batch_axes": {"images": 0, "logits": 0},
    }
    return Signature(**(fields | changes))


def manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "name": "resnet50",
        "deployable": True,
        "created": "2026-11-22T20:00:00+00:00",
        "mopt_version": "0.1.0",
        "command": "mopt build resnet50.onnx --data photos/ --out resnet50",
        "recipe": {"model": {"source": "resnet50.onnx"}},
        "target": {"name": "cpu", "isa": ["avx2"]},
        "machine": Machine(
            cpu="AMD EPYC 7763", isa=("avx2",), cores=2, memory_bytes=24 << 30, system="Linux 6.1", python="3.11.7"
        ),
        "noise": {"load at the end": 0.31, "stolen time, %": 0.0},
        "versions": {"onnxruntime": "1.22.0", "onnx": "1.19.0"},
        "source": ExportRecord(
            source="resnet50.onnx",
            source_digest="b" * 64,
            exporter="onnx",
            opset=17,
            largest_difference=3.1e-7,
            samples=16,
        ),
        "simplified": "onnxslim: 161 of 215 nodes left",
        "signature": signature(),
        "data": {"source": "photos/", "calibration samples": 256, "evaluation samples": 1200, "digest": "c" * 64},
        "chosen": "onnxruntime-int8",
        "runtime": "onnxruntime",
        "runtime_fields": {"threads": 2},
        "format": "onnx",
        "why": "It is the fastest at batch 1 of those that pass the gate",
        "control": estimate(1.004, 0.01),
        "trials": trials(),
        "batching": Batching(
            max_batch=8,
            queue_delay_us=500,
            instances=1,
            replicas=2,
            predicted_p99_ms=23.4,
            utilization=0.62,
            rate=400.0,
            limited_by="p99",
        ),
        "golden": Golden(count=1, tolerance={"logits": 1e-3}),
        "files": {},
    }
    return Manifest(**(fields | changes))


def hostile() -> Manifest:
    """Every text that comes from a user, a model or a library is an attack."""
    spec = TensorSpec(name=HOSTILE, dtype="float32", shape=(HOSTILE, 3))
    return manifest(
        name=HOSTILE,
        deployable=False,
        not_deployable_because=HOSTILE,
        command=f"mopt build '{HOSTILE}' ``` x",
        why=HOSTILE,
        chosen=HOSTILE,
        trials=(
            trial(f"reference {HOSTILE}", 1.0, quality(0, 0).model_copy(update={"metric": HOSTILE}), None),
            trial(HOSTILE, 2.0, quality(-0.001, -0.002).model_copy(update={"metric": HOSTILE}), None),
            trial(
                f"other {HOSTILE}",
                1.5,
                quality(-0.1, -0.2, "fail"),
                Outcome(rejection=Rejection.WORSE, reason=HOSTILE),
                evidence={HOSTILE: {HOSTILE: 1}},
            ),
        ),
        signature=Signature(inputs=(spec,), outputs=(spec,)),
        data={HOSTILE: HOSTILE},
        versions={HOSTILE: HOSTILE},
        simplified=HOSTILE,
    )
