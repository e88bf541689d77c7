"""``ncsn likelihood``."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from annotated_types import Interval

from ncsn.cli import console
from ncsn.cli.options import OfRun, check_suffix
from ncsn.files import check_out
from ncsn.validation import Count, Seed, Sigma, check_ranges

if TYPE_CHECKING:
    from ncsn import likelihood
    from ncsn.distributed import Group

PART = 32  # images at a time


@dataclass(frozen=True, kw_only=True)
class Likelihood(OfRun):
    """The likelihood of the test images under a model, in bits per dimension, with error bars."""

    n: Annotated[Count, tyro.conf.arg(name="n", aliases=["-n"])] = 64
    """How many test images."""
    data: str | None = None
    """Where the data set is that the run was trained on, if it has moved."""
    probes: Annotated[int, Interval(ge=1, le=10**4)] = 4
    """Random directions in which the divergence of the score is measured."""
    sigma_min: Sigma | None = None
    """The noise level whose density is taken for the data's; by default the run's smallest."""
    tolerance: Annotated[float, Interval(ge=1e-10, le=1)] = 1e-3
    """Relative and absolute error of an adaptive step."""
    seed: Seed = 0
    out: Path | None = None
    """A .json file for the numbers of every image."""
    overwrite: bool = False
    """Replace an existing file."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        check_ranges(self)
        if self.out is not None:
            check_suffix(self.out, ".json")

    def __call__(self) -> None:
        """Integrate, and print."""
        if self.out is not None and not console.follows():
            check_out(self.out, overwrite=self.overwrite)
        import torch

        import ncsn
        from ncsn import distributed, machine, storage
        from ncsn.likelihood import Bits, joined
        from ncsn.pixels import dequantize
        from ncsn.rng import block_seed

        began, group = time.perf_counter(), distributed.join()
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
        needed = 16 * self.probes * min(n, PART) * x[0].numel()
        machine.check_memory(needed, run.device, f"{self.probes} probes of {min(n, PART)} images at a time")
        parts = run.likelihoods(
            x,
            sigma_min=self.sigma_min,
            probes=self.probes,
            tolerance=self.tolerance,
            batch_size=PART,
            seed=block_seed(self.seed, 1),  # the generator of the seed itself has chosen the images
            first=group.rank,
            every=group.size,
        )
        everybodys = list(console.bar(gathered(parts, n, group), f"{n} images", total=-(-n // PART)))
        if not group.leads:
            return
        found = joined(everybodys)
        bits = Bits.of(found, x[0].numel())
        sigma_min = run.recipe.sampling.sigma_min if self.sigma_min is None else self.sigma_min
        what = "pixels (byte + u)/256" if pixels.dtype == torch.uint8 else "pixels in steps of 1/256"
        error = f"± {bits.error.mean():.3f} an image" if self.probes > 1 else "an image's error is not known"
        mean = f"{bits.mean:.3f} bits/dim" + (f" ± {bits.mean_error:.3f}" if n > 1 else "")
        print(
            f"{mean} (over {n} test images; {error} over {self.probes} probes), for {what} with noise {sigma_min:g}; "
            f"up to {found.nfe} evaluations, {time.perf_counter() - began:.0f} s"
        )
        if self.out is not None:
            rows = {"sigma_min": sigma_min, "probes": self.probes, "tolerance": self.tolerance, "seed": self.seed}
            numbers = {
                "test_images": chosen.tolist(),
                "bits_per_dimension": bits.each.tolist(),
                "errors": bits.error.tolist() if self.probes > 1 else None,
            }
            storage.write_json(self.out, rows | numbers)


def gathered(mine: "Iterator[likelihood.Likelihood]", n: int, group: "Group") -> "Iterator[likelihood.Likelihood]":
    """Likelihoods of ``n`` images, ``PART`` at a time and in order, for the leading process; for the others none."""
    import torch

    from ncsn.likelihood import Likelihood

    for first in range(0, n, PART * group.size):
        own, table = next(mine, None), torch.zeros(PART, 3, dtype=torch.float64)
        if own is not None:
            rows = [own.log_prob, own.standard_error, torch.full_like(own.log_prob, own.nfe)]
            table[: len(own.log_prob)] = torch.stack(rows, 1).cpu()
        for number, part in enumerate(group.gather(table)):
            count = min(PART, n - first - number * PART)
            if count > 0:
                log_prob, error = part[:count, :2].unbind(1)
                yield Likelihood(log_prob, error, int(part[0, 2]))
