"""What is said about generated images: every number beside two floors, and what a reader of them must know."""

from dataclasses import asdict, dataclass
from typing import Any

RATIOS = ("fid", "frechet_distance", "kernel_distance", "pixel_wasserstein")  # of numbers whose zero means something


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number about generated images, what validation and training images score in their place, and ratios to both.

    A ratio is None where it makes no sense: of numbers whose zero means nothing, or to a floor that is not positive.
    """

    generated: float
    held_out: float
    training: float
    ratio: float | None = None
    ratio_to_training: float | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How good ``n`` samples are: every number beside its floors, and the share of each class, if there are any.

    ``comparable``: whether there are as many as every number that is reported is about.  ``features``: what the images
    were seen by, its ``dimensions``, the sha256 of its weights, and a classifier's accuracy on the validation images.
    ``notes``: what a reader of the numbers must know.
    """

    n: int
    comparable: bool
    features: str
    dimensions: int
    digest: str
    accuracy: float | None
    metrics: dict[str, Metric]
    classes: tuple[str, ...]
    generated_histogram: list[float]
    held_out_histogram: list[float]
    training_histogram: list[float]
    notes: tuple[str, ...] = ()

    def report(self) -> dict[str, Any]:
        """The same as JSON takes it; what there is none of is left out."""
        content = asdict(self) | {"classes": list(self.classes), "notes": list(self.notes)}
        content["metrics"] = {
            name: {kind: value for kind, value in metric.items() if value is not None}
            for name, metric in content["metrics"].items()
        }
        return {name: value for name, value in content.items() if value not in (None, [], "")}


def compared(name: str, generated: float, held_out: float, training: float) -> Metric:
    """A number beside its floors, and ratios where they make sense."""

    def over(floor: float) -> float | None:
        return generated / floor if name in RATIOS and floor > 0 else None

    return Metric(
        generated=generated,
        held_out=held_out,
        training=training,
        ratio=over(held_out),
        ratio_to_training=over(training),
    )
