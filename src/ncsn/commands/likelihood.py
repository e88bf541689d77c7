"""``ncsn likelihood``."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """The likelihood of MNIST's test images under a model, in bits per dimension, with error bars."""

    run: tyro.conf.Positional[Path]
    """The run's folder, such as runs/mnist; or mnist, the model that comes with the package."""
    n: Annotated[int, tyro.conf.arg(name="n", aliases=["-n"])] = 64
    """How many test images."""
    probes: int = 4
    """Random directions in which the divergence of the score is measured."""
    sigma_min: float | None = None
    """The noise level whose density is taken for the data's; by default the run's smallest."""
    tolerance: float = 1e-3
    """Relative and absolute error of an adaptive step."""
    seed: int = 0
    out: Path | None = None
    """A .json file for the numbers of every image."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if not 1 <= self.n <= 10_000 or self.probes < 1 or not self.tolerance > 0:
            raise ValueError(
                f"n is {self.n}, probes is {self.probes}, tolerance is {self.tolerance}; allowed are 1 to 10000, at "
                "least 1, and above 0"
            )

    def __call__(self) -> None:
        """Integrate, and print."""
        import torch

        from ncsn import console, data, machine, runs
        from ncsn.likelihood import bits_per_dimension, log_prob
        from ncsn.pixels import dequantize

        machine.keep_memory()
        folder, images, began = runs.find(self.run), data.mnist(), time.perf_counter()
        recipe, model = runs.read_recipe(folder), runs.load(folder)
        if recipe.shape != images.shape:
            raise ValueError(
                f"{folder} makes examples of shape {recipe.shape}; only MNIST's {images.shape} can be judged"
            )
        model.autocast = False  # a solver that adapts its step takes rounding for curvature
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(len(images.test), generator=generator)[: self.n]
        x = dequantize(images.test[chosen], generator=generator)
        sigma_min = self.sigma_min or recipe.sigma_min
        mean = (images.train.float().mean(0) + 0.5) / 256
        parts, errors, nfe = [], [], 0
        batches = torch.split(x, 32)
        for part in console.bar(iter(batches), len(batches), f"{self.n} images"):
            found = log_prob(
                model,
                part,
                sigma_max=recipe.sigma_max,
                sigma_min=sigma_min,
                mean=mean,
                probes=self.probes,
                tolerance=self.tolerance,
                generator=generator,
            )
            parts.append(bits_per_dimension(found.log_prob, x[0].numel()))
            errors.append(found.standard_error / (x[0].numel() * 0.6931471805599453))
            nfe = max(nfe, found.nfe)
        bits, error = torch.cat(parts), torch.cat(errors)
        spread = float(bits.std()) / self.n**0.5 if self.n > 1 else float("nan")
        print(
            f"{bits.mean():.3f} bits/dim ± {spread:.3f} (over {self.n} test images; ± {error.mean():.3f} an image over "
            f"{self.probes} probes), for pixels (byte + u)/256 with noise {sigma_min:g}; up to {nfe} evaluations, "
            f"{time.perf_counter() - began:.0f} s"
        )
        if self.out is not None:
            rows = {"sigma_min": sigma_min, "probes": self.probes, "tolerance": self.tolerance, "seed": self.seed}
            numbers = {"test_images": chosen.tolist(), "bits_per_dimension": bits.tolist(), "errors": error.tolist()}
            runs.write_json(self.out, rows | numbers)
