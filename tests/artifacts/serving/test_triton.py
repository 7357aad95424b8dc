import json

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from mopt.artifacts.serving._provisioning import provision
from mopt.artifacts.serving._triton_plan import backend_of, plan_of
from mopt.artifacts.serving.triton import Triton, _taken
from mopt.errors import NotApplicableError
from mopt.model.signature import Signature, TensorSpec
from mopt.records.serving import Batching
from mopt.system.environments import find_environment
from tests.artifacts.serving.test_provisioning import served
from tests.manifests import HOSTILE, manifest, signature

IMAGES = {"images": np.linspace(0, 1, 3 * 224 * 224, dtype=np.float32).reshape(1, 3, 224, 224)}
NP = {
    "bool": "BOOL", "float16": "FP16", "float32": "FP32", "float64": "FP64", "bfloat16": "BF16", "str": "STRING",
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip


@pytest.fixture
def parse(tmp_path):
    """Write a repository and parse its configuration with NVIDIA's own schema."""

    def write(golden=(), files=("model.onnx",), **changes):
        source = tmp_path / "model"
        source.mkdir()
        for name in files:
            (source / name).write_bytes(name.encode())
        folder = tmp_path / "triton"
        folder.mkdir()
        Triton().write(folder, manifest=manifest(**changes), model_folder=source, golden=golden)
        (path,) = folder.glob("*/config.pbtxt")
        config = text_format.Parse(path.read_text(), pb.ModelConfig())
        assert config.name == path.parent.name
        return config, path

    return write


def batching(**changes):
    return manifest().batching.model_copy(update=changes)


def test_an_image_model(parse):
    config, path = parse([IMAGES])
    assert config.backend == "onnxruntime"
    assert config.platform == "onnxruntime_onnx"
    assert config.max_batch_size == 8
    assert config.dynamic_batching == pb.ModelDynamicBatching(max_queue_delay_microseconds=500)
    assert [(spec.name, list(spec.dims)) for spec in config.input] == [("images", [3, 224, 224])]
    assert [(spec.name, list(spec.dims)) for spec in config.output] == [("logits", [1000])]
    assert {key: value.string_value for key, value in config.parameters.items()} == {
        "intra_op_thread_count": "2",
        "inter_op_thread_count": "1",
    }
    assert [path.name for path in (path.parent / "1").iterdir()] == ["model.onnx"]
    assert "400 requests per second on 2 servers like this, p99 23.4 ms" in path.read_text()


def test_the_warm_up_is_a_real_sample_alone_and_as_a_full_batch(parse):
    config, path = parse([IMAGES])
    assert [warm.batch_size for warm in config.model_warmup] == [1, 8]
    for warm in config.model_warmup:
        sent = warm.inputs["images"]
        assert (sent.data_type, list(sent.dims)) == (pb.TYPE_FP32, [3, 224, 224])
        assert (path.parent / "warmup" / sent.input_data_file).read_bytes() == IMAGES["images"].tobytes()


def test_without_a_sample_there_is_no_warm_up(parse):
    config, path = parse()
    assert len(config.model_warmup) == 0
    assert not (path.parent / "warmup").exists()


def test_instances_run_on_the_cpu(parse):
    config, _ = parse(batching=batching(instances=3))
    assert [(group.count, group.kind) for group in config.instance_group] == [(3, pb.ModelInstanceGroup.KIND_CPU)]


@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "tensorrt_rtx"])
def test_what_was_measured_on_a_gpu_is_served_on_one(parse, provider):
    config, path = parse(runtime="onnxruntime_gpu", runtime_fields={"threads": 1, "provider": provider})
    assert [group.kind for group in config.instance_group] == [pb.ModelInstanceGroup.KIND_GPU]
    accelerators = [one.name for one in config.optimization.execution_accelerators.gpu_execution_accelerator]
    assert accelerators == (["tensorrt"] if provider == "tensorrt" else [])
    assert ("provider=tensorrt_rtx, for which" in path.read_text()) is (provider == "tensorrt_rtx")


def test_a_batch_of_one_needs_no_batcher(parse):
    config, _ = parse([IMAGES], batching=batching(max_batch=1))
    assert config.max_batch_size == 1
    assert not config.HasField("dynamic_batching")
    assert [warm.batch_size for warm in config.model_warmup] == [1]


@pytest.mark.parametrize("dtype", sorted(NP))
def test_every_type_of_tensor_has_tritons_name(parse, dtype):
    spec = TensorSpec(name="x", dtype=dtype, shape=("batch", "length"))
    config, _ = parse(signature=Signature(inputs=(spec,), outputs=(spec,), batch_axes={"x": 0}))
    assert pb.DataType.Name(config.input[0].data_type) == f"TYPE_{NP[dtype]}"
    assert list(config.input[0].dims) == [-1]


def test_strings_go_behind_their_length(parse):
    spec = TensorSpec(name="text", dtype="str", shape=("batch", 2))
    one = Signature(inputs=(spec,), outputs=(spec,), batch_axes={"text": 0})
    _, path = parse([{"text": np.array([["naïve", ""]], object)}], signature=one)
    assert (path.parent / "warmup" / "input-0").read_bytes() == b"\x06\0\0\0na\xc3\xafve\0\0\0\0"


def test_one_number_for_each_sample_is_reshaped(parse):
    """Triton takes no tensor without dims: the model's [batch] is [batch, 1] for the client."""
    spec = TensorSpec(name="x", dtype="float32", shape=("batch",))
    one = Signature(inputs=(spec,), outputs=(spec,), batch_axes={"x": 0})
    config, _ = parse([{"x": np.ones((1,), np.float32)}], signature=one)
    assert list(config.input[0].dims) == [1]
    assert config.input[0].HasField("reshape")
    assert list(config.input[0].reshape.shape) == []
    assert list(config.model_warmup[0].inputs["x"].dims) == [1]


VOICE = Signature(
    inputs=(
        TensorSpec(name="input", dtype="float32", shape=("batch", 512)),
        TensorSpec(name="state", dtype="float32", shape=(2, "batch", 128)),
        TensorSpec(name="sr", dtype="int64", shape=()),
    ),
    outputs=(
        TensorSpec(name="output", dtype="float32", shape=("batch", 1)),
        TensorSpec(name="stateN", dtype="float32", shape=(2, "batch", 128)),
    ),
    batch_axes={"input": 0, "state": 1, "output": 0, "stateN": 1},
)
FIXED = signature(
    inputs=(TensorSpec(name="images", dtype="float32", shape=(4, 3)),),
    outputs=(TensorSpec(name="logits", dtype="float32", shape=(4, 2)),),
    batch_size=4,
)
SHARED = signature(
    inputs=(
        TensorSpec(name="images", dtype="float32", shape=("batch", 3)),
        TensorSpec(name="threshold", dtype="float32", shape=(1,)),
    )
)


@pytest.mark.parametrize(
    ("made", "reason", "dims"),
    [
        (VOICE, "state is batched along axis 1", [[-1, 512], [2, -1, 128], [1]]),
        (FIXED, "a fixed batch size of 4", [[4, 3]]),
        (SHARED, "threshold has no batch axis", [[-1, 3], [1]]),
    ],
    ids=["other-axis", "fixed", "shared-input"],
)
def test_what_triton_cannot_stack_it_does_not_batch(parse, made, reason, dims):
    golden = {
        spec.name: np.zeros([size if isinstance(size, int) else 1 for size in spec.shape], spec.dtype) for spec in made.inputs
    }
    sample = {name: value[:1] if made.batch_size else value for name, value in golden.items()}
    config, path = parse([sample], signature=made)
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert [list(spec.dims) for spec in config.input] == dims
    assert not any(spec.HasField("reshape") for spec in config.input)
    assert reason in path.read_text()
    (warm,) = config.model_warmup
    assert warm.batch_size == 1
    assert {name: list(sent.dims) for name, sent in warm.inputs.items()} == {
        name: list(value.shape) or [1] for name, value in golden.items()
    }


def test_openvino_pads_and_says_so(parse):
    config, path = parse(
        [IMAGES],
        files=("model.xml", "model.bin"),
        format="openvino",
        runtime="openvino",
        runtime_fields={"threads": 2, "precision": "f32"},
    )
    assert (config.backend, config.platform) == ("openvino", "")
    assert {key: value.string_value for key, value in config.parameters.items()} == {
        "INFERENCE_NUM_THREADS": "2",
        "NUM_STREAMS": "1",
        "ENABLE_BATCH_PADDING": "YES",
    }
    text = path.read_text()
    assert "pads smaller ones" in text
    assert "9.49 ms when measured" in text
    assert "INFERENCE_PRECISION_HINT=f32, for which this backend has no parameter" in text
    assert sorted(path.name for path in (path.parent / "1").iterdir()) == ["model.bin", "model.xml"]


def test_openvino_in_bf16(parse):
    config, path = parse(format="openvino", runtime="openvino", runtime_fields={"threads": 1, "precision": "bf16"})
    assert config.parameters["HINT_BF16"].string_value == "YES"
    assert "no parameter" not in path.read_text()


def judged(precision, isa, **changes):
    machine = manifest().machine.model_copy(update={"isa": isa})
    fields = {"threads": 2, "precision": precision, "shapes": "dynamic"}
    return {"format": "openvino", "runtime": "openvino", "runtime_fields": fields, "machine": machine, **changes}


def test_openvino_without_a_hint_is_what_was_judged(parse):
    config, path = parse(**judged("default", ("avx2", "avx512_bf16")))
    assert "HINT_BF16" not in config.parameters
    assert "Judged in what OpenVINO picks by itself on AMD EPYC 7763" in path.read_text()


def test_what_was_judged_in_fp32_is_not_served_in_bf16(parse):
    with pytest.raises(NotApplicableError, match="judged in FP32, which its openvino backend cannot ask for"):
        parse(**judged("f32", ("avx2", "avx512_bf16")))


def test_instances_of_openvino_are_streams_of_one_model_with_threads_for_all(parse):
    config, _ = parse(**judged("default", ("avx2",), batching=batching(instances=3, threads=2)))
    assert config.instance_group[0].count == 3
    assert config.parameters["NUM_STREAMS"].string_value == "3"
    assert config.parameters["INFERENCE_NUM_THREADS"].string_value == "6"


@pytest.mark.parametrize(("varies", "told"), [(False, False), (True, True)])
def test_shapes_are_static_where_only_the_batch_varied(parse, varies, told):
    fields = {"threads": 2, "precision": "default", "shapes": "static"}
    words = TensorSpec(name="ids", dtype="float32", shape=("batch", "length" if varies else 8))
    one = Signature(inputs=(words,), outputs=(words,), batch_axes={"ids": 0})
    _, path = parse(**judged("default", ("avx2",), runtime_fields=fields, signature=one))
    assert ("shapes=static, for which this backend has no parameter" in path.read_text()) is told


def test_openvino_cannot_pad_what_varies(parse):
    words = TensorSpec(name="ids", dtype="int64", shape=("batch", "length"))
    config, path = parse(format="openvino", signature=Signature(inputs=(words,), outputs=(words,), batch_axes={"ids": 0}))
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [-1, -1]
    assert "cannot pad inputs of variable size" in path.read_text()


@pytest.mark.parametrize(
    ("form", "spec", "words"),
    [
        ("openvino", TensorSpec(name="x", dtype="str", shape=("batch", 1)), "does not take tensors of type str: x"),
        ("openvino", TensorSpec(name="x", dtype="float64", shape=("batch", 1)), "float64"),
        ("openvino", TensorSpec(name="x", dtype="int64", shape=()), "does not take scalars: x"),
        ("onnx", TensorSpec(name="x", dtype="complex64", shape=("batch", 1)), "complex64"),
        ("onnx", TensorSpec(name="x", dtype="float32", shape=("batch", 0)), "dimension of 0: x"),
        ("gguf", TensorSpec(name="x", dtype="float32", shape=("batch", 1)), "form gguf"),
    ],
)
def test_what_a_backend_cannot_load_is_not_written(parse, form, spec, words):
    with pytest.raises(NotApplicableError, match=words):
        parse(format=form, signature=Signature(inputs=(spec,), outputs=(spec,), batch_axes={"x": 0}))


def test_an_option_without_a_parameter_is_told(parse):
    _, path = parse(runtime_fields={"threads": 2, "arena": False})
    assert "Measured with arena=False, for which this backend has no parameter." in path.read_text()


def test_hostile_names_stay_text(parse, tmp_path):
    spec = TensorSpec(name=HOSTILE, dtype="float32", shape=("batch", HOSTILE))
    config, path = parse(
        [{HOSTILE: np.zeros((1, 2), np.float32)}],
        name=f"../../{HOSTILE}",
        signature=Signature(inputs=(spec,), outputs=(spec,), batch_axes={HOSTILE: 0}),
        deployable=False,
        not_deployable_because='x\n}\nmax_batch_size: 99 "',
        batching=Batching(**batching().model_dump()),
    )
    assert config.input[0].name == HOSTILE
    assert HOSTILE in config.model_warmup[0].inputs
    assert config.max_batch_size == 8
    assert path.parent.parent == tmp_path / "triton"
    assert "NOT DEPLOYABLE" in path.read_text()


# --- README, a request, and releases -----------------------------------------------------------------------------------------


def readme(path):
    return (path.parent.parent / "README.md").read_text()


def test_the_readme_has_one_command_and_one_request(parse):
    _, path = parse([IMAGES], deployable=False, not_deployable_because="no sample was given")
    text = readme(path)
    assert text.count("docker run") == 1
    assert "nvcr.io/nvidia/tritonserver:" in text
    assert "http://localhost:8000/v2/models/resnet50/infer" in text
    assert "Not deployable" in text
    (entry,) = json.loads((path.parent.parent / "request.json").read_text())["inputs"]
    assert (entry["name"], entry["datatype"], entry["shape"]) == ("images", "FP32", [1, 3, 224, 224])


def test_a_request_has_the_shape_that_triton_reshapes(parse):
    spec = TensorSpec(name="x", dtype="float32", shape=("batch",))
    one = Signature(inputs=(spec,), outputs=(spec,), batch_axes={"x": 0})
    _, path = parse([{"x": np.ones((1,), np.float32)}], signature=one)
    (entry,) = json.loads((path.parent.parent / "request.json").read_text())["inputs"]
    assert entry["shape"] == [1, 1]
    record = manifest(signature=one)
    (taken,) = _taken(record, plan_of(record, backend_of(record)))
    assert taken.shape == ("batch", 1)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_fp16_travels_as_raw_bytes_alone(parse, dtype):
    spec = TensorSpec(name="x", dtype=dtype, shape=("batch", 2))
    one = Signature(inputs=(spec,), outputs=(spec,), batch_axes={"x": 0})
    _, path = parse([{"x": np.ones((1, 2), dtype)}], signature=one)
    assert (path.parent.parent / "request.json").exists() is (dtype == "float32")
    assert ("which curl cannot write" in readme(path)) is (dtype == "float16")


def test_answers_are_computed_anew_and_one_version_is_served(parse):
    config, _ = parse()
    assert config.HasField("response_cache")
    assert config.response_cache.enable is False
    assert config.version_policy.latest.num_versions == 1


def test_the_warm_up_runs_as_often_as_it_took_to_be_steady(parse):
    profile = served(warm_ms=40.0)
    config, _ = parse([IMAGES], serving_profile=profile)
    assert {warm.count for warm in config.model_warmup} == {provision(manifest(serving_profile=profile)).warm_up_requests}
    assert config.model_warmup[0].count > 1


def test_the_release_that_is_named_is_started_and_its_other_version_told(tmp_path):
    model, folder = tmp_path / "model", tmp_path / "triton"
    for each in (model, folder):
        each.mkdir()
    (model / "model.onnx").write_bytes(b"model.onnx")
    record = manifest(versions={"onnxruntime": "1.32.0"})
    Triton(release="26.03").write(folder, manifest=record, model_folder=model, golden=[])
    assert "tritonserver:26.03-py3" in (folder / "README.md").read_text()
    assert "# Judged with ONNX Runtime 1.32.0, and the release 26.03 has" in next(folder.glob("*/config.pbtxt")).read_text()


def test_the_files_are_held_to_nvidias_schema(parse):
    _, path = parse()
    proof = Triton().check(path.parent.parent, manifest=manifest(), environment=None)[0]
    assert proof.state == "proven"
    path.write_text(path.read_text() + "max_batch_sizes: 3\n")
    proof = Triton().check(path.parent.parent, manifest=manifest(), environment=None)[0]
    assert proof.state == "failed"
    assert "max_batch_sizes" in proof.detail


@pytest.mark.servers
def test_model_analyzer_reads_them(parse):
    if find_environment("model-analyzer") is None:
        pytest.skip("mopt tools install model-analyzer has not run")
    _, path = parse([IMAGES])
    proof = Triton().check(path.parent.parent, manifest=manifest(), environment=None)[1]
    assert (proof.state, proof.detail) == ("proven", "it reads resnet50")
    path.write_text("no field: 1\n")
    assert Triton().check(path.parent.parent, manifest=manifest(), environment=None)[1].state == "failed"


@pytest.mark.parametrize(
    ("runtime", "shape", "axes", "why"),
    [
        ("onnxruntime", ("batch", "length"), {"x": 0}, ""),
        ("openvino", ("batch", 8), {"x": 0}, ""),
        ("openvino", ("batch", "length"), {"x": 0}, "cannot pad inputs of variable size"),
        ("onnxruntime", (2, "batch"), {"x": 1}, "Triton stacks along axis 0"),
    ],
)
def test_it_is_told_before_a_build_plans_batches_that_triton_does_not_make(runtime, shape, axes, why):
    spec = TensorSpec(name="x", dtype="float32", shape=shape)
    reason = Triton().why_unbatched(runtime, Signature(inputs=(spec,), outputs=(spec,), batch_axes=axes))
    assert why in reason
    assert bool(reason) is bool(why)
