import json
from pathlib import Path

import pytest

from mopt.datasets.spec import SourceDefaults, TextSpec
from mopt.exporters._huggingface_folder import folder_defaults

CLASSIFIER = {"architectures": ["BertForSequenceClassification"], "id2label": {"1": "POSITIVE", "0": "NEGATIVE"}}


def write(folder: Path, **files: dict | str) -> Path:
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("files", "length"),
    [
        ({}, 512),
        ({"tokenizer_config__json": {"model_max_length": 1e30}, "sentence_bert_config__json": {"max_seq_length": 256}}, 256),
        ({"tokenizer_config__json": {"model_max_length": 100}, "config__json": {"max_position_embeddings": 64}}, 64),
        ({"config__json": {"model_type": "xlm-roberta", "max_position_embeddings": 130, "pad_token_id": 1}}, 128),
    ],
    ids=["none", "sentence-transformers", "positions", "roberta"],
)
def test_a_tokenizer_keeps_as_many_tokens_as_the_model_takes(tmp_path: Path, files: dict, length: int) -> None:
    defaults = folder_defaults(write(tmp_path, **{"tokenizer__json": {}, **files}))
    assert defaults.text == TextSpec(tokenizer="tokenizer.json", max_length=length, padding="longest")


@pytest.mark.parametrize(
    ("changes", "classes", "metric"),
    [
        ({}, ("NEGATIVE", "POSITIVE"), ""),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, (), ""),
        ({"id2label": {"1": "a", "3": "b"}}, (), ""),
        ({"id2label": ["a"]}, (), ""),
        ({"id2label": {"0": "LABEL_0"}}, (), "mse"),
        ({"problem_type": "regression"}, (), "mse"),
        ({"architectures": ["BertModel"]}, (), ""),
    ],
    ids=["named", "numbered", "gaps", "damaged", "one-number", "regression", "encoder"],
)
def test_classes_and_the_metric_of_the_task(tmp_path: Path, changes: dict, classes: tuple[str, ...], metric: str) -> None:
    assert folder_defaults(write(tmp_path, config__json={**CLASSIFIER, **changes})) == SourceDefaults(
        classes=classes, metric=metric
    )


def test_an_image_processor_may_be_in_either_file(tmp_path: Path) -> None:
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}, "do_normalize": False}
    image = folder_defaults(write(tmp_path, processor_config__json={"image_processor": processor})).image
    assert image is not None
    assert image.resize == (8, 8)
    assert folder_defaults(write(tmp_path, preprocessor_config__json={**processor, "size": {"longest_edge": 8}})).image is None


def test_what_cannot_be_taken_is_told(tmp_path: Path) -> None:
    defaults = folder_defaults(
        write(tmp_path, preprocessor_config__json={"image_processor_type": "DonutImageProcessor"}, vocab__txt="a")
    )
    assert defaults.image is defaults.text is None
    assert "DonutImageProcessor does what [data.image] cannot say" in defaults.left_out
    assert "its vocabulary is no tokenizer.json" in defaults.left_out


def test_a_damaged_folder_brings_nothing(tmp_path: Path) -> None:
    assert folder_defaults(write(tmp_path, config__json="[", preprocessor_config__json="[1]")) == SourceDefaults()
