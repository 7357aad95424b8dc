"""Windows of speech and of noise for silero-vad, with the recurrent state that the model had reached before each."""

from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
RATE = 16000


def samples():
    yield from _read("data.npz")


def held_out():
    yield from _read("held_out.npz")


def _read(name):
    with np.load(HERE / name, allow_pickle=False) as arrays:
        windows, states, labels = arrays["input"], arrays["state"], arrays["label"]
    for window, state, label in zip(windows, states, labels, strict=True):
        yield {"input": window[None], "state": state, "sr": np.array(RATE, np.int64)}, int(label)
