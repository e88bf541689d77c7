"""``evaluate``: how good a run's samples are, whatever kind of data it has learned."""

from typing import Any, overload

import torch
from jaxtyping import Shaped
from torch import Tensor

from ncsn.data import Dataset
from ncsn.evaluation.images import REPORTABLE, Evaluation, Ruler
from ncsn.evaluation.signals import judge_signals
from ncsn.evaluation.tables import TableEvaluation, held_out_examples, judge_table
from ncsn.run import Run

Judgement = Evaluation | TableEvaluation


@overload
def evaluate(source: Run, data: Dataset | str | None = None, features: Any = "auto", **how: Any) -> Judgement: ...
@overload
def evaluate(source: Tensor, data: Dataset, features: Any = "auto") -> Evaluation: ...


def evaluate(
    source: Run | Shaped[Tensor, "n *d"],
    data: Dataset | str | None = None,
    features: Any = "auto",
    *,
    n: int = REPORTABLE,
    seed: int = 0,
    **how: Any,
) -> Judgement:
    """How good samples are, beside real examples that training has not seen.

    ``source``: a run, which draws the samples; or images (n, c, h, w), to be compared with ``data``.
    ``data``: the data set, or where it is now; by default what the run has learned from.
    ``features``: of images, what distances are measured in: a name as for ``choose``, ``Features`` or a function.
    ``n``: how many samples a run draws, if there are as many held-out examples.
    ``seed``: of the samples.  ``how``: how they are drawn, as for ``Run.sample``.
    Raises ValueError for data that is not known, for too few held-out examples, and for features of what is no image.

    >>> images = ncsn.load_dataset("mnist")
    >>> result = ncsn.evaluation.evaluate(images.validation[:100], images, ncsn.evaluation.PIXELS)
    >>> result.n, list(result.metrics)
    (100, ['pixel_wasserstein', 'memorisation', 'near_duplicates'])
    """
    if not isinstance(source, Run):
        if not isinstance(data, Dataset):
            raise ValueError("samples are compared with a data set; give it, or a run")
        return Ruler(data, features, len(source)).judge(source)
    dataset = data if isinstance(data, Dataset) else source.data(data)
    kind = source.recipe.kind.noun
    if kind == "images":
        mirrored = bool(source.settings.get("flip"))
        ruler = Ruler(dataset, features, n, mirrored=mirrored, device=source.device)
        blocks = source.blocks(ruler.n, seed=seed, **how)
        return ruler.judge(torch.cat([steps.last().cpu() for steps in blocks]))
    if features not in ("auto", None):
        raise ValueError(f"features are {features}; {kind} are compared as they are")
    samples = source.sample(len(held_out_examples(dataset, n)), seed=seed, **how)
    return JUDGES[kind](source, dataset, samples.cpu())


JUDGES = {"rows": judge_table, "signals": judge_signals}
