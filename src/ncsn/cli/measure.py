"""``ncsn evaluate``, ``ncsn likelihood`` and ``ncsn info``: numbers about a run."""

import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from annotated_types import Interval

from ncsn.cli import console, drawing
from ncsn.cli.options import RunOptions, SamplingOptions, check_suffix
from ncsn.data import Reading
from ncsn.validation import Count, DeviceName, NoiseLevel, Seed, check_ranges, read_json

if TYPE_CHECKING:
    from torch import Tensor

    from ncsn.evaluation import Evaluation
    from ncsn.machine.distributed import Group
    from ncsn.run import Run

PART = 32  # images whose likelihood is computed together
PAGE, NUMBERS, SAMPLES = "evaluation.png", "evaluation.json", "evaluation.npz"


@dataclass(frozen=True, kw_only=True)
class Evaluate(SamplingOptions, Reading):
    """Measure how good a run's samples are: every number beside real images'.

    Args:
        source: A run's folder, mnist or hf://user/model.
        data: Where the data set is that the run was trained on, if it has moved.
        against: A data set to judge by instead of the run's own: a name, a folder, an archive or an array. It is read
            by --size, --fit, --background and --max-broken.
        features: What distances are measured in: pixels, classifier (trained on the data's classes, and kept) or
            efficientnet. auto: for MNIST the classifier in the package, else classifier where there are classes and
            efficientnet where there are none.
        n: How many samples, as far as there are as many test images; numbers from fewer than 10,000 are not comparable
            to others'.
        seed: For drawing the samples of a run.
        device: auto: CUDA where there is one, else the CPU.
        out: A folder for evaluation.json, evaluation.png and the samples, evaluation.npz; by default the run's.
        overwrite: Replace an earlier evaluation there.
    """

    source: tyro.conf.Positional[Path]
    data: str | None = None
    against: str | None = None
    features: str = "auto"
    n: Annotated[int, Interval(ge=100, le=10**4), tyro.conf.arg(name="n", aliases=["-n"])] = 10_000
    seed: Seed = 0
    device: DeviceName = "auto"
    out: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Refuse options that have no effect."""
        super().__post_init__()
        if self.data is not None and self.against is not None:
            raise ValueError("--data is where a run's own data set is; to judge by another, give --against alone")
        if self.against is None and self.reading != Reading():
            raise ValueError("--size, --fit, --background and --max-broken are about --against, which is not given")

    def __call__(self) -> None:
        """Draw samples, judge them, and write the numbers."""
        import numpy as np

        import ncsn
        from ncsn import data, evaluation, plots, storage
        from ncsn.machine import distributed, hardware

        group = distributed.join()
        run = ncsn.load(self.source, device=self.device)
        if not group.leads:
            self.draw(run, int(group.share()), group)
            return
        out = self.folder(run)
        shape = run.recipe.shape
        if len(shape) != 3:
            raise ValueError(f"{self.source} makes examples of shape {shape}; only images can be judged")
        images = run.data(self.data) if self.against is None else data.load_images(self.against, reading=self.reading)
        if images.shape != shape:
            raise ValueError(
                f"{self.source} has images of shape {shape}, the data of {images.shape}; they must be equal"
            )
        print(f"data: {images.name}, {images.describe()}")
        # Features come before samples: what is wrong with them should not take minutes to turn out.
        real = evaluation.at_8_bits(images)
        features = evaluation.choose(real, self.features, hardware.choose_device(self.device))
        if self.features == "auto" and features.embed is None:
            print("only pixels are compared; images without classes have features after pip install 'ncsn[features]'")
        n = min(self.n, len(images.test), len(images.validation), len(images.train))
        if n < self.n:
            print(f"{n} samples instead of {self.n}: there are no more real images to compare with", file=sys.stderr)
        group.share(str(n).encode())
        samples, numbers = self.draw(run, n, group)
        with storage.atomic(out / SAMPLES) as temporary:
            np.savez_compressed(temporary, samples=samples.numpy())
        began = time.perf_counter()
        result = evaluation.evaluate(samples, images, features)
        if self.label not in (None, "any", "none"):
            note = f"samples of class {self.label} alone, beside images of all classes: they differ for that alone"
            result = replace(result, notes=[*result.notes, note])
        numbers |= {"source": str(self.source), "data": images.name, "data_digest": images.digest}
        numbers["evaluation_seconds"] = time.perf_counter() - began
        storage.write_json(out / NUMBERS, numbers | result.report())
        shown = samples[: min(30, result.n // 10 * 10)]
        _, neighbours = evaluation.nearest(shown, real.train)
        plots.image_pairs(shown, real.train[neighbours], out / PAGE)
        print_table(result)
        print(f"{out}: {NUMBERS}, {PAGE}, {SAMPLES}")

    def draw(self, run: "Run", n: int, group: "Group") -> "tuple[Tensor, dict[str, Any]]":
        """``n`` samples of a run as bytes, and how they were drawn; for other processes than the leading one, none."""
        import torch

        from ncsn.data.pixels import quantize

        began = time.perf_counter()
        blocks = list(drawing.draw_blocks(run, n, seed=self.seed, group=group, **self.how()))
        if not blocks:
            return torch.zeros(0), {}
        last = blocks[-1]
        return torch.cat([quantize(block.samples) for block in blocks]), {
            "run_digest": run.digest,
            "seed": self.seed,
            "sampler": last.sampling.sampler,
            "class": self.label,
            "guidance": last.sampling.guidance,
            "guide": last.sampling.guide,
            "nfe": last.nfe,
            "guide_nfe": last.guide_nfe,
            "sampling_seconds": time.perf_counter() - began,
        }

    def folder(self, run: "Run") -> Path:
        """The folder to write into: --out, or the run's; for a run of the package or of the hub, this one.

        Raises ValueError if it may not be written there.
        """
        from ncsn.storage import check_out

        folder = self.source if run.folder == self.source else Path()
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)
            folder = self.out
        for name in (NUMBERS, PAGE, SAMPLES):
            check_out(folder / name, overwrite=self.overwrite)
        return folder


def print_table(result: "Evaluation") -> None:
    """Print the numbers as a table, and what a reader must know about them."""
    for note in result.notes:
        print(f"note: {note}")
    right = "" if result.accuracy is None else f", {result.accuracy:.1%} right on the validation images"
    print(f"features: {result.features}{right}")
    print(f"n = {result.n}{'' if result.comparable else ', too few to be comparable'}")
    print(f"{'':<18}{'generated':>11}{'held out':>11}{'training':>11}{'ratio':>9}{'to training':>13}")
    for name, metric in result.metrics.items():
        numbers = f"{metric.generated:11.4g}{metric.held_out:11.4g}{metric.training:11.4g}"
        ratios = ["" if ratio is None else f"{ratio:.2f}" for ratio in (metric.ratio, metric.ratio_to_training)]
        print(f"{name:<18}{numbers}{ratios[0]:>9}{ratios[1]:>13}".rstrip())


@dataclass(frozen=True, kw_only=True)
class Likelihood(RunOptions):
    """The likelihood of the test images under a model, in bits per dimension, with error bars.

    Args:
        n: How many test images.
        data: Where the data set is that the run was trained on, if it has moved.
        probes: Random directions in which the divergence of the score is measured.
        sigma_min: The noise level whose density is taken for the data's; by default the run's smallest.
        tolerance: Relative and absolute error of an adaptive step.
        out: A .json file for the numbers of every image.
        overwrite: Replace an existing file.
    """

    n: Annotated[Count, tyro.conf.arg(name="n", aliases=["-n"])] = 64
    data: str | None = None
    probes: Annotated[int, Interval(ge=1, le=10**4)] = 4
    sigma_min: NoiseLevel | None = None
    tolerance: Annotated[float, Interval(ge=1e-10, le=1)] = 1e-3
    seed: Seed = 0
    out: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        check_ranges(self)
        if self.out is not None:
            check_suffix(self.out, ".json")

    def __call__(self) -> None:
        """Integrate, print, and write."""
        if console.follows():  # under torchrun the leading process does it alone
            return
        import torch

        import ncsn
        from ncsn import storage
        from ncsn.data.pixels import dequantize
        from ncsn.likelihood import bits_per_dimension
        from ncsn.run import block_seed

        if self.out is not None:
            storage.check_out(self.out, overwrite=self.overwrite)
        began = time.perf_counter()
        run = ncsn.load(self.run, device=self.device)
        if not run.recipe.images:
            raise ValueError(f"{self.run} makes points; for these there is run.log_prob in Python")
        test = run.data(self.data).test
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(len(test), generator=generator)[: self.n]
        pixels = test[chosen]
        x = dequantize(pixels, generator=generator) if pixels.dtype == torch.uint8 else pixels
        n, dimensions = len(x), x[0].numel()
        if n < self.n:
            print(f"{n} test images instead of {self.n}: there are no more")
        # The generator of the seed itself has chosen the images.
        seed, sigma_min = block_seed(self.seed, 1), self.sigma_min or run.recipe.sampling.sigma_min
        solver: dict[str, Any] = {"sigma_min": sigma_min, "probes": self.probes, "tolerance": self.tolerance}
        parts = run.likelihoods(x, **solver, batch_size=PART, seed=seed)
        results = list(console.bar(parts, f"{n} images", total=-(-n // PART)))
        bits = bits_per_dimension(torch.cat([result.log_prob for result in results]), dimensions)
        errors = torch.cat([result.standard_error for result in results]) / (dimensions * math.log(2))
        what = "pixels (byte + u)/256" if pixels.dtype == torch.uint8 else "pixels in steps of 1/256"
        error = f"± {errors.mean():.3f} an image" if self.probes > 1 else "an image's error is not known"
        mean = f"{bits.mean():.3f} bits/dim" + (f" ± {bits.std() / n**0.5:.3f}" if n > 1 else "")
        print(
            f"{mean} (over {n} test images; {error} over {self.probes} probes), for {what} with noise {sigma_min:g}; "
            f"up to {max(result.nfe for result in results)} evaluations, {time.perf_counter() - began:.0f} s"
        )
        if self.out is not None:
            numbers = {
                **solver,
                "seed": self.seed,
                "test_images": chosen.tolist(),
                "bits_per_dimension": bits.tolist(),
                "errors": errors.tolist() if self.probes > 1 else None,
            }
            storage.write_json(self.out, numbers)


def pairs(content: Mapping[str, object]) -> str:
    """``name=value`` for each item, floats shortened."""
    return ", ".join(f"{k}={f'{v:.4g}' if isinstance(v, float) else v}" for k, v in content.items())


@dataclass(frozen=True, kw_only=True)
class Info(RunOptions):
    """Print what a run is: its experiment, network, noise levels, sampler and numbers."""

    def __call__(self) -> None:
        """Print what the run's folder says."""
        import ncsn
        from ncsn import storage

        folder = storage.find(self.run)
        run = ncsn.load(folder, device=self.device)
        recipe, sampling, model = run.recipe, run.recipe.sampling, run.model
        if sampling.guide == "unconditional":
            guide = f"{sampling.guidance:g}, by the network's own score without the class"
        elif run.guide is None:
            guide = "none"
        else:
            guide = f"{sampling.guidance:g}, by a guide of {run.guide_parameters:,} weights"
        path = folder / "metrics.json"
        results = read_json(path) if path.is_file() else {}
        rows = {
            "run": self.run,
            "experiment": run.experiment,
            "network": f"{recipe.network}({pairs(recipe.arguments)}), {run.parameters:,} weights",
            "data": f"shape {recipe.shape}, mean {model.data_mean.mean():.4g}, std {model.data_std:.4g}",
            "classes": ", ".join(recipe.shares) or recipe.classes or "none",
            "noise": f"σ from {sampling.sigma_max:g} to {sampling.sigma_min:g}",
            "sampler": f"{sampling.sampler} on {sampling.count} noise levels, {sampling.nfe} evaluations",
            "guidance": guide,
            "settings": pairs(run.settings),
            "results": pairs({k: v for k, v in results.items() if not isinstance(v, list | dict)}),
        }
        for name, value in rows.items():
            print(f"{name:<11} {value}")
