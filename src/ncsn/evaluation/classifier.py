"""The classifier of images whose activations are the features that image metrics compare."""

from jaxtyping import Float
from torch import Tensor, nn


class Classifier(nn.Module):
    """A convolutional network with batch normalisation for images: (b, c, h, w) in [0, 1] → (b, classes).

    ``features`` are the 128 activations before the last layer.  By default for MNIST, and trained by
    ``scripts/train_classifier.py``.  Sides of 64 pixels and more are averaged down to between 32 and 64 first.
    ``channels``: the channels of an image.  ``size``: its height and width, at least 4.
    ``num_classes``: the number of classes.
    Raises ValueError for images that are too small.
    """

    def __init__(self, channels: int = 1, size: tuple[int, int] = (28, 28), num_classes: int = 10) -> None:
        super().__init__()
        if min(size) < 4:
            raise ValueError(f"images have {size[0]} x {size[1]} pixels; the classifier needs at least 4 x 4")

        def convolution(inputs: int, outputs: int) -> list[nn.Module]:
            return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

        self.shrink = nn.AvgPool2d(max(1, min(size) // 32))
        self.body = nn.Sequential(
            *convolution(channels, 32),
            *convolution(32, 32),
            nn.MaxPool2d(2),
            *convolution(32, 64),
            *convolution(64, 64),
            nn.MaxPool2d(2),
            *convolution(64, 128),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Linear(128, 128),
            nn.BatchNorm1d(128),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(128, num_classes))

    def features(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 128"]:
        """The 128 activations before the last layer."""
        return self.body(self.shrink(x))  # type: ignore[no-any-return]

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """The logits of the classes."""
        return self.head(self.features(x))  # type: ignore[no-any-return]
