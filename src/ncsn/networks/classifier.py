"""A small digit classifier: the feature space in which samples are judged."""

from jaxtyping import Float
from torch import Tensor, nn


class Classifier(nn.Module):
    """A convolutional network with batch normalisation for 1 × 28 × 28 images: (b, 1, 28, 28) in [0, 1] → (b, 10).

    ``features`` are the 128 activations before the last layer.  ``scripts/train_classifier.py`` trains it.
    """

    def __init__(self) -> None:
        super().__init__()

        def convolution(inputs: int, outputs: int) -> list[nn.Module]:
            return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

        self.body = nn.Sequential(
            *convolution(1, 32),
            *convolution(32, 32),
            nn.MaxPool2d(2),
            *convolution(32, 64),
            *convolution(64, 64),
            nn.MaxPool2d(2),
            *convolution(64, 128),
            nn.MaxPool2d(7),
            nn.Flatten(),
            nn.Linear(128, 128),
            nn.BatchNorm1d(128),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(128, 10))

    def features(self, x: Float[Tensor, "b 1 28 28"]) -> Float[Tensor, "b 128"]:
        """The 128 activations from which the digit is read."""
        return self.body(x)  # type: ignore[no-any-return]

    def forward(self, x: Float[Tensor, "b 1 28 28"]) -> Float[Tensor, "b 10"]:
        """The logits of the ten digits."""
        return self.head(self.features(x))  # type: ignore[no-any-return]
