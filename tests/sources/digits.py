"""A small convolutional network for digits, trained when the case is prepared."""

from pathlib import Path

import torch

HERE = Path(__file__).parent


def network():
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(32, 64, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(64 * 7 * 7, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10),
    )  # fmt: skip


class Digits(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = network()

    def forward(self, image):
        return self.layers(image)


def model():
    digits = Digits()
    digits.load_state_dict(torch.load(HERE / "digits.pt", weights_only=True))
    return digits.eval(), {"image": torch.zeros(2, 1, 28, 28)}
