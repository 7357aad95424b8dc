"""What lowering one layer alone does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mopt.passes.language._mixed import choose_mix
from mopt.passes.language._sensitivity import observe_language_sensitivity, units_of
from tests.passes.language.checkpoints import replace_tensor, source_weights, write_calibration, write_source

pytestmark = pytest.mark.slow
pytest.importorskip("transformers")
NAME = "model.layers.1.mlp.down_proj"


def test_fewer_bits_cost_more_and_the_worst_layer_is_found(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    value = source_weights(source)[f"{NAME}.weight"].copy()
    value[:, ::32] *= 20  # a weight of each group is so large that the others are rounded to nothing
    source = replace_tensor(source, f"{NAME}.weight", value)
    windows = write_calibration(tmp_path / "windows")
    data = observe_language_sensitivity(str(source.folder), windows, [(4, 32), (8, 32)])
    units = units_of(data)
    assert sorted(name for unit in units for name in unit.layers) == sorted(
        name.removesuffix(".weight") for name in source_weights(source) if "_proj" in name
    )
    for unit in units:
        losses = {option.bits: option.loss for option in unit.options}
        assert losses[4] > 10 * losses[8] > losses[16] == 0
    inside = [unit for unit in units if ".layers.1." in unit.layers[0]]
    worst = max(inside, key=lambda unit: next(option.loss for option in unit.options if option.bits == 4))
    assert worst.layers == (NAME,)
    mix = choose_mix(inside, bits_per_weight=5.6)
    assert {name: bits for name, bits, _ in mix.layers}[NAME] > 4
    assert np.isfinite(mix.loss)
