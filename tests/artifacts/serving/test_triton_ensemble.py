"""What the model of pixels computes, and the ensemble in the real tritonserver."""

import numpy as np
import onnx
import onnxruntime
import pytest
import tritonclient.grpc
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from mopt.artifacts.serving.triton import Triton
from mopt.datasets.preprocess import image_array
from mopt.datasets.spec import ImageSpec
from mopt.model.signature import Signature, TensorSpec
from mopt.system.environments import find_environment
from tests import servers
from tests.manifests import HOSTILE, manifest

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
SPECS = {
    "imagenet": ImageSpec(**IMAGENET),
    "imagenet-cropped": ImageSpec(resize=12, crop=8, **IMAGENET),
    "bgr": ImageSpec(channels="bgr", scale=1.0, mean=(103.94, 116.78, 123.68), std=(57.0,), layout="nhwc"),
    "half": ImageSpec(dtype="float16", **IMAGENET),
    "gray": ImageSpec(channels="gray", mean=(0.5,), std=(0.5,)),
    "bytes": ImageSpec(dtype="uint8"),
}


def described(image):
    return {"image": {"input": "images", **image.recipe()}}


def signature(image, *more, sizes=(8, 8)):
    channels = 1 if image.channels == "gray" else 3
    shape = ("batch", channels, *sizes) if image.layout == "nchw" else ("batch", *sizes, channels)
    inputs = (TensorSpec(name="images", dtype=image.dtype, shape=shape), *more)
    outputs = (TensorSpec(name="scores", dtype="float32", shape=("batch", 2)),)
    return Signature(inputs=inputs, outputs=outputs, batch_axes={spec.name: 0 for spec in (*inputs, *outputs)})


@pytest.fixture
def write(tmp_path):
    def written(image, *more, sizes=(8, 8), **changes):
        model, folder = tmp_path / "model", tmp_path / "triton"
        for each in (model, folder):
            each.mkdir()
        (model / "model.onnx").write_bytes(b"model.onnx")
        fields = {"data": described(image), "signature": signature(image, *more, sizes=sizes), **changes}
        record = manifest(name="eye", **fields)
        Triton().write(folder, manifest=record, model_folder=model, golden=[])
        return folder

    return written


@pytest.mark.parametrize("name", SPECS)
def test_pixels_become_what_was_judged_to_the_last_bit(write, name):
    image = SPECS[name]
    folder = write(image)
    session = onnxruntime.InferenceSession(str(folder / "eye_pixels" / "1" / "model.onnx"), providers=["CPUExecutionProvider"])
    sides = (20, 12) if image.resize else (8, 8)
    channels = 1 if image.channels == "gray" else 3
    for seed in range(3):
        picture = np.random.default_rng(seed).integers(0, 256, (*sides, channels), np.uint8)
        judged = image_array(picture, image, "a picture")
        ready = image_array(
            picture, image.model_copy(update={"dtype": "uint8", "layout": "nhwc", "mean": (), "std": ()}), "the same"
        )
        pixels = ready[:, :, ::-1] if image.channels == "bgr" else ready
        (prepared,) = session.run(None, {"pixels": np.ascontiguousarray(pixels)[None]})
        assert prepared.dtype == judged.dtype
        np.testing.assert_array_equal(prepared[0], judged)


def test_the_ensemble_runs_it_before_the_model(write):
    mask = TensorSpec(name="mask", dtype="float32", shape=("batch",))
    folder = write(ImageSpec(**IMAGENET), mask)
    config = text_format.Parse((folder / "eye_ensemble" / "config.pbtxt").read_text(), pb.ModelConfig())
    assert [(spec.name, spec.data_type, list(spec.dims)) for spec in config.input] == [
        ("pixels", pb.TYPE_UINT8, [8, 8, 3]),
        ("mask", pb.TYPE_FP32, [1]),
    ]
    assert not any(spec.HasField("reshape") for spec in config.input)
    assert [step.model_name for step in config.ensemble_scheduling.step] == ["eye_pixels", "eye"]
    assert dict(config.ensemble_scheduling.step[1].input_map) == {"images": "prepared", "mask": "mask"}
    assert config.max_batch_size == 8
    assert "eye_ensemble takes pixels (UINT8, 8 x 8 x 3, RGB)" in (folder / "README.md").read_text()
    assert Triton().check(folder, manifest=manifest(), environment=None)[0].state == "proven"


def test_a_picture_of_another_size_is_the_clients_to_resize(write):
    text = (write(SPECS["imagenet-cropped"]) / "README.md").read_text()
    assert "takes pixels that were resized and cropped as  data.image  says" in text


def test_any_size_stays_any_size(write):
    folder = write(ImageSpec(), sizes=("height", "width"))
    config = text_format.Parse((folder / "eye_ensemble" / "config.pbtxt").read_text(), pb.ModelConfig())
    assert list(config.input[0].dims) == [-1, -1, 3]


@pytest.mark.parametrize(
    ("image", "more", "changes"),
    [
        (ImageSpec(), (), {"data": {}}),
        (ImageSpec(dtype="uint8", layout="nhwc"), (), {}),
        (ImageSpec(), (TensorSpec(name="pixels", dtype="float32", shape=("batch", 2)),), {}),
        (ImageSpec(), (TensorSpec(name="threshold", dtype="float32", shape=(1,)),), {"batching": None}),
        (ImageSpec(), (), {"data": {"image": {"input": "images", "of another version": 1}}}),
        (ImageSpec(), (), {"data": {"image": {"input": HOSTILE, "scale": 1.0}}}),
        (ImageSpec(), (), {"data": {"image": {"input": "images", "dtype": "float16"}}}),
    ],
    ids=["no-pictures", "nothing-to-do", "same-name", "not-batched", "unknown", "no-such-input", "other-type"],
)
def test_there_is_no_ensemble_where_there_is_nothing_to_say(write, image, more, changes):
    if "batching" in changes:  # an input that all samples share
        shared = signature(image, *more)
        axes = {name: axis for name, axis in shared.batch_axes.items() if name != "threshold"}
        changes = {"signature": shared.model_copy(update={"batch_axes": axes})}
        more = ()
    assert [path.name for path in write(image, *more, **changes).glob("eye*")] == ["eye"]


# --- in the real server -------------------------------------------------------------------------------------------------------

EYE = """
<ir_version: 8, opset_import: ["" : 17]>
eye (float[batch, 3, 8, 8] images) => (float[batch, 2] scores)
<float[2, 3, 3, 3] w = {%s}>
{ a = Conv (images, w) b = Relu (a) c = GlobalAveragePool (b) scores = Flatten (c) }
"""


@pytest.fixture(scope="module", params=["onnx", "openvino"])
def server(request, tmp_path_factory):
    if find_environment("triton") is None:
        pytest.skip(servers.missing("triton"))
    root = tmp_path_factory.mktemp(f"ensemble-{request.param}")
    model, folder, scratch = root / "model", root / "triton", root / "scratch"
    for each in (model, folder, scratch):
        each.mkdir()
    weights = ", ".join(map(str, np.random.default_rng(0).standard_normal(54).round(3)))
    onnx.save(onnx.parser.parse_model(EYE % weights), root / "eye.onnx")
    runtime = "onnxruntime"
    if request.param == "onnx":
        (root / "eye.onnx").rename(model / "model.onnx")
    else:
        import openvino

        openvino.save_model(openvino.convert_model(str(root / "eye.onnx")), str(model / "model.xml"), compress_to_fp16=False)
        runtime = "openvino"
    fields = {"threads": 1} if runtime == "onnxruntime" else {"threads": 1, "precision": "default"}
    record = manifest(
        name="eye", signature=signature(SPECS["imagenet"]), format=request.param, runtime=runtime, runtime_fields=fields,
        data=described(SPECS["imagenet"]),
    )  # fmt: skip
    Triton().write(folder, manifest=record, model_folder=model, golden=[{"images": np.zeros((1, 3, 8, 8), np.float32)}])
    launch = Triton().launch(
        folder, manifest=record, environment=find_environment("triton"), ports=servers.free_ports(), scratch=scratch
    )
    with servers.launched(launch):
        yield launch.also[0][0].removeprefix("grpc://")


@pytest.mark.slow
def test_the_server_answers_pixels_as_the_model_answers_what_was_made_of_them(server):
    """Both ways through the same model, so that its own precision cancels out."""
    client = tritonclient.grpc.InferenceServerClient(server)
    for seed, batch in ((0, 1), (1, 3)):
        pictures = np.random.default_rng(seed).integers(0, 256, (batch, 8, 8, 3), np.uint8)
        judged = np.stack([image_array(picture, SPECS["imagenet"], "a picture") for picture in pictures])
        direct = tritonclient.grpc.InferInput("images", list(judged.shape), "FP32")
        direct.set_data_from_numpy(judged)
        pixels = tritonclient.grpc.InferInput("pixels", list(pictures.shape), "UINT8")
        pixels.set_data_from_numpy(pictures)
        expected = client.infer("eye", [direct]).as_numpy("scores")
        np.testing.assert_array_equal(client.infer("eye_ensemble", [pixels]).as_numpy("scores"), expected)
        assert np.abs(expected).max() > 0
