"""``ncsn likelihood``."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ncsn import console
from ncsn.commands.options import OfRun

PART = 32  # images at a time


@dataclass(frozen=True, kw_only=True)
class Likelihood(OfRun):
    """The likelihood of the test images under a model, in bits per dimension, with error bars."""

    n: Annotated[int, tyro.conf.arg(name="n", aliases=["-n"])] = 64
    """How many test images."""
    data: str | None = None
    """Where the data set is that the run was trained on, if it has moved."""
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
        if self.n < 1 or self.probes < 1 or not self.tolerance > 0:
            raise ValueError(
                f"n is {self.n}, probes is {self.probes}, tolerance is {self.tolerance}; at least 1, at "
                "least 1, and above 0 are allowed"
            )

    def __call__(self) -> None:
        """Integrate, and print."""
        import torch

        import ncsn
        from ncsn import storage
        from ncsn.likelihood import Bits, joined
        from ncsn.pixels import dequantize

        began = time.perf_counter()
        run = ncsn.load(self.run, device=self.device)
        if not run.recipe.images:
            raise ValueError(f"{self.run} makes points; for these there is run.log_prob in Python")
        test = run.data(self.data).test
        generator = torch.Generator().manual_seed(self.seed)
        chosen = torch.randperm(len(test), generator=generator)[: self.n]
        pixels = test[chosen]
        x = dequantize(pixels, generator=generator) if pixels.dtype == torch.uint8 else pixels
        n = len(x)
        if n < self.n:
            print(f"{n} test images instead of {self.n}: there are no more")
        parts = run.likelihoods(
            x,
            sigma_min=self.sigma_min,
            probes=self.probes,
            tolerance=self.tolerance,
            batch_size=PART,
            seed=self.seed if run.device.type != "cpu" else generator,
        )
        found = joined(list(console.bar(parts, f"{n} images", total=-(-n // PART))))
        bits = Bits.of(found, x[0].numel())
        sigma_min = run.recipe.sampling.sigma_min if self.sigma_min is None else self.sigma_min
        what = "pixels (byte + u)/256" if pixels.dtype == torch.uint8 else "pixels in steps of 1/256"
        print(
            f"{bits.mean:.3f} bits/dim ± {bits.mean_error:.3f} (over {n} test images; ± {bits.error.mean():.3f} "
            f"an image over {self.probes} probes), for {what} with noise {sigma_min:g}; up to "
            f"{found.nfe} evaluations, {time.perf_counter() - began:.0f} s"
        )
        if self.out is not None:
            rows = {"sigma_min": sigma_min, "probes": self.probes, "tolerance": self.tolerance, "seed": self.seed}
            numbers = {
                "test_images": chosen.tolist(),
                "bits_per_dimension": bits.each.tolist(),
                "errors": bits.error.tolist(),
            }
            storage.write_json(self.out, rows | numbers)
