"""Sample quality for every kind of data: each number next to that of real examples."""

from pathlib import Path

import torch
from jaxtyping import Shaped
from torch import Tensor
from typing_extensions import Unpack

from ncsn.data.dataset import OTHER_DATA, Dataset, Report
from ncsn.evaluation.calibrating import calibrate as calibrate
from ncsn.evaluation.comparison import Comparison as Comparison
from ncsn.evaluation.images import PIXELS as PIXELS
from ncsn.evaluation.images import REPORTABLE, FeaturesLike
from ncsn.evaluation.images import Evaluation as Evaluation
from ncsn.evaluation.images import Features as Features
from ncsn.evaluation.images import Metric as Metric
from ncsn.evaluation.images import Ruler as Ruler
from ncsn.evaluation.images import choose as choose
from ncsn.evaluation.images import digits as digits
from ncsn.evaluation.images import nearest as nearest
from ncsn.evaluation.output import ruler
from ncsn.loading import dataset_of
from ncsn.metrics import Calibration as Calibration
from ncsn.metrics import calibration as calibration
from ncsn.run.options import SamplingOptions
from ncsn.run.run import Run
from ncsn.settings import Reading
from ncsn.validation import as_numbers


def evaluate(
    source: Run | Shaped[Tensor, "n *d"],
    data: object = None,
    features: FeaturesLike = "auto",
    *,
    n: int = REPORTABLE,
    seed: int = 0,
    **options: Unpack[SamplingOptions],
) -> Report:
    """Evaluate samples by comparing them with held-out examples.

    ``source``: a run, which draws the samples; or images (n, c, h, w), to be compared with ``data``.
    ``data``: for a run, a dataset, its path, an array or a DataFrame, by default what it was trained on; for images, a
    dataset.
    ``features``: the features in which distances between images are measured: a name as for ``choose``, ``Features`` or
    a function.
    ``n``: the number of samples that a run draws, by default 10,000, and at most the number of held-out examples.
    ``seed``: the seed of the samples.  ``options``: how samples are drawn, as for ``Run.sample``.
    Raises ValueError if the data isn't known, if there are too few held-out examples, or for features of tables or
    signals.

    >>> images = ncsn.load_dataset("mnist")
    >>> result = ncsn.evaluation.evaluate(images.validation[:100], images, ncsn.evaluation.PIXELS)
    >>> result.n, list(result.metrics)
    (100, ['pixel_wasserstein', 'memorisation', 'near_duplicates'])
    """
    if not isinstance(source, Run):
        if not isinstance(data, Dataset):
            raise ValueError("data is missing: samples need a dataset to be compared with")
        samples = as_numbers("source", source)
        return Ruler(data, features, len(samples)).judge(samples)
    if data is None or isinstance(data, str | Path):
        dataset = source.data(None if data is None else str(data))
    else:
        reading = Reading(signals=bool(source.settings.get("signals")))
        dataset = data if isinstance(data, Dataset) else dataset_of(data, reading=reading)
        if dataset.transform != source.transform:
            raise ValueError(OTHER_DATA)
    if features != "auto" and not source.examples.guided:
        raise ValueError(f"features is {features}, but only images have features; leave it out")
    next(source.blocks(1, seed=seed, **options))  # rejects options without a wait of minutes
    judge = ruler(source, dataset, features, n)
    blocks = source.blocks(judge.n, seed=seed, **options)
    return judge.judge(torch.cat([steps.last().cpu() for steps in blocks]))
