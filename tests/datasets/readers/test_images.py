from pathlib import Path

import numpy as np
from PIL import Image

from mopt.datasets.spec import ImageSpec
from tests.datasets.readers.cases import Opener


def _pictures(folder: Path, *names: str) -> Path:
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), index, np.uint8)).save(folder / name)
    return folder


def test_image_folders_are_classes_in_order_of_name(tmp_path: Path, opened: Opener) -> None:
    folder = _pictures(tmp_path / "d", "dog/1.png", "cat/2.jpg", "cat/deep/3.png", "ant/4.bmp")
    (folder / "cat" / "notes.txt").write_text("no picture")
    (folder / ".cache").mkdir()
    reader = opened(folder, image=ImageSpec())
    assert reader.classes == ("ant", "cat", "dog")
    assert [reader.name(index) for index in range(4)] == ["ant/4.bmp", "cat/2.jpg", "cat/deep/3.png", "dog/1.png"]
    assert reader.labels == [0, 1, 1, 2]


def test_flat_image_folders_have_no_labels(tmp_path: Path, opened: Opener) -> None:
    reader = opened(_pictures(tmp_path / "d", "1.png", "2.png"), image=ImageSpec())
    assert (len(reader), reader.labels, reader.classes) == (2, None, ())
    assert reader.read(1, reader.columns) == {"x": tmp_path / "d" / "2.png"}
