"""Runs in an environment of its own: onnx-neural-compressor wants NumPy 1.

    python neural_compressor_tuning.py MODEL CALIBRATION VALIDATION SCORE FLOAT_MODEL OUT LOSS

It writes the best model that loses no more than this share of the score to OUT; its log has a line for each evaluation.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from onnx_neural_compressor import data_reader
from onnx_neural_compressor.quantization import config, tuning
from onnxruntime import quantization

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.scores import score


def feeds(folder):
    """Arrays by input name, one file for each sample."""
    for path in sorted(Path(folder).glob("*.npz")):
        with np.load(path) as arrays:
            yield dict(arrays)


class Reader(data_reader.CalibrationDataReader):
    """Gives the calibration samples, again and again."""

    def __init__(self, folder):
        self._feeds = list(feeds(folder))
        self.rewind()

    def get_next(self):
        """Return the next sample, or None."""
        return next(self._left, None)

    def rewind(self):
        """Begin anew."""
        self._left = iter(self._feeds)


def main():
    """Tune."""
    model, calibration, validation, kind, float_model, out, loss = sys.argv[1:]
    samples, labels = list(feeds(validation)), json.loads((Path(validation) / "labels.json").read_text())
    reference = []

    def evaluate(path):
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        outputs = [dict(zip(names, session.run(None, feed), strict=True)) for feed in samples]
        if not reference:
            reference.extend(outputs)
        return score(kind, outputs, labels, reference, Path(float_model))

    (Path(out)).mkdir(parents=True, exist_ok=True)
    configurations = config.StaticQuantConfig.get_config_set_for_tuning(quant_format=quantization.QuantFormat.QDQ)
    choice = tuning.TuningConfig(config_set=configurations, tolerable_loss=float(loss), max_trials=40)
    best = tuning.autotune(model, choice, evaluate, calibration_data_reader=Reader(calibration))
    if best is not None:
        import onnx

        onnx.save(best, str(Path(out) / "model.onnx"))


if __name__ == "__main__":
    main()
