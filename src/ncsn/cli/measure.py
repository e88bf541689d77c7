"""``ncsn evaluate``, ``ncsn likelihood`` and ``ncsn info``: numbers about a run."""

import json
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from annotated_types import Interval

from ncsn.cli import console
from ncsn.cli.console import RunOptions, SamplingOptions
from ncsn.cli.sample import write_array
from ncsn.learn.settings import Given
from ncsn.validation import NoiseLevel, Seed, read_json

if TYPE_CHECKING:
    from ncsn.machine.distributed import Group
    from ncsn.run import Run

ROWS = 500  # of a table, whose densities are computed together
PART = 32  # images whose likelihood is computed together
NUMBERS, PAGE, SAMPLES = FILES = ("evaluation.json", "evaluation.png", "evaluation.npz")


@dataclass(frozen=True, kw_only=True)
class Evaluate(SamplingOptions, RunOptions):
    """Measure how good a run's samples are: every number beside real images'.

    Args:
        data: Where the data set is that the run was trained on, if it has moved.
        features: What distances are measured in: pixels, classifier (trained on the data's classes, and kept) or
            efficientnet. auto is the classifier in the package for MNIST, classifier for other data with classes, and
            efficientnet for data without.
        n: How many samples, if there are as many test images. Numbers from fewer than 10,000 are not comparable with
            others.
        seed: The same seed gives the same samples on one machine.
        out: A folder for evaluation.json, evaluation.png and the samples, evaluation.npz; by default the run's, or this
            one for a run of the package or the hub.
        overwrite: Replace an earlier evaluation there.
    """

    data: Annotated[Given[str], tyro.conf.arg(metavar="PLACE")] = None
    features: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto"
    n: Annotated[int, Interval(ge=100, le=10**4), tyro.conf.arg(name="n", aliases=["-n"])] = 10_000
    seed: Seed = 0
    out: Annotated[Given[Path], tyro.conf.arg(metavar="FOLDER")] = None
    overwrite: bool = False

    def __call__(self) -> None:
        """Draw samples, judge them, and write the numbers."""
        import ncsn
        from ncsn import storage
        from ncsn.machine import distributed

        run, group = ncsn.load(self.run, device=self.device), distributed.join()
        if not console.of_images(run):
            self.refuse("features", of="evaluations of images")
        out = self.out or (self.run if self.run == run.folder else Path())
        out.mkdir(parents=True, exist_ok=True)
        if group.is_main:
            for name in FILES:
                storage.check_out(out / name, overwrite=self.overwrite)
        (self.judge_images if console.of_images(run) else self.judge_numbers)(run, out, group)

    def write(self, run: "Run", out: Path, content: dict[str, Any]) -> None:
        """Write evaluation.json, after everything else: who sees it has all of the evaluation."""
        from ncsn import storage

        storage.write_json(out / NUMBERS, {"source": str(self.run), "run_digest": run.digest} | content)

    def judge_images(self, run: "Run", out: Path, group: "Group") -> None:
        """Images beside test images; several processes share the work of drawing them."""
        import numpy as np
        import torch

        import ncsn
        from ncsn import evaluation
        from ncsn.data.units import BYTES

        ruler = None
        if group.is_main:
            images = run.data(self.data)
            print(f"data: {images.name}, {images.describe()}")
            # Features come before samples: what is wrong with them should not take minutes to turn out.
            mirrored = bool(run.settings.get("flip"))
            ruler = evaluation.Ruler(images, self.features, self.n, mirrored=mirrored, device=run.device)
        n = int(group.broadcast(str(ruler and ruler.n).encode()))
        drawn = write_array(out / SAMPLES, run, n, depth=BYTES, group=group, seed=self.seed, **self.how())
        if ruler is None or drawn is None:
            return
        samples = torch.from_numpy(np.load(out / SAMPLES)["samples"])
        result = ruler.judge(samples)
        if self.label not in (None, "any", "none"):
            note = f"the samples are of class {self.label}, the images of all classes: that alone makes them differ"
            result = replace(result, notes=[*result.notes, note])
        facts: dict[str, Any] = {"seed": self.seed, "class": self.label, "sampling": asdict(drawn.steps.sampling)}
        facts |= {"nfe": drawn.steps.nfe, "guide_nfe": drawn.steps.guide_nfe, "data": images.name}
        facts |= {"data_digest": images.digest, "sampling_seconds": drawn.seconds}
        shown = samples[: min(30, n // 10 * 10)]
        _, neighbours = evaluation.nearest(shown, ruler.train)
        ncsn.plots.image_pairs(shown, ruler.train[neighbours], out / PAGE)
        self.write(run, out, facts | result.report())
        print(result)
        print(f"{out}: {', '.join(FILES)}")

    def judge_numbers(self, run: "Run", out: Path, group: "Group") -> None:
        """Rows or signals beside others that training has not seen; by the leading process alone."""
        if not group.is_main:
            return
        from ncsn.cli.kinds import BESIDE
        from ncsn.evaluation.judge import JUDGES
        from ncsn.evaluation.tables import held_out_examples

        data = run.data(self.data)
        print(f"data: {data.name}, {data.describe()}")
        test, noun = held_out_examples(data, self.n), run.recipe.kind.noun
        samples = console.draw(run, len(test), seed=self.seed, **self.how()).samples
        result = JUDGES[noun](run, data, samples)
        BESIDE[noun](run, test, samples, out / PAGE)
        self.write(run, out, result.report())
        print(result)
        print(f"{out}: {NUMBERS}, {PAGE}")


@dataclass(frozen=True, kw_only=True)
class Likelihood(RunOptions):
    """The likelihood of the test images under a model, in bits per dimension, with error bars; or of a table's rows.

    In Python ``run.log_prob`` gives the number of every image.

    Args:
        rows: A table with the run's columns: the log density of each of its rows in nats, in the units of the columns.
        out: Where to write densities, .csv, .tsv or .parquet.
        overwrite: Replace an existing file.
        n: How many test images.
        data: Where the data set is that the run was trained on, if it has moved.
        probes: Random directions in which the divergence of the score is measured; by default 4, or of up
            to 16 columns all directions.
        sigma_min: The noise level whose density is taken for the data's; by default the run's smallest.
        tolerance: Relative and absolute error of each step of the solver; by default 1e-3 for images, 1e-4 for rows.
        seed: Of the random directions.
    """

    rows: tyro.conf.Positional[Given[Path]] = None
    out: Path = Path("density.csv")
    overwrite: bool = False
    n: Annotated[int, Interval(ge=2, le=10**9), tyro.conf.arg(name="n", aliases=["-n"])] = 64
    data: Annotated[Given[str], tyro.conf.arg(metavar="PLACE")] = None
    probes: Given[Annotated[int, Interval(ge=2, le=10**4)]] = None
    sigma_min: Given[NoiseLevel] = None
    tolerance: Given[Annotated[float, Interval(ge=1e-10, le=1)]] = None
    seed: Seed = 0

    def __call__(self) -> None:
        if not console.is_main():  # under torchrun the leading process does it alone
            return
        import torch

        import ncsn
        from ncsn.data.units import dequantize
        from ncsn.run import block_seed

        began = time.perf_counter()
        if self.rows is None:
            self.refuse("out", "overwrite", of="likelihoods of rows")
        else:
            self.refuse("n", "data", of="likelihoods of test images")
        run = ncsn.load(self.run, device=self.device)
        if self.rows is not None:
            self.write_densities(run, self.rows)
            return
        if not console.of_images(run):
            raise ValueError(f"{self.run} makes {run.recipe.kind.noun}; of rows: ncsn likelihood {self.run} rows.csv")
        test, generator = run.data(self.data).test, torch.Generator().manual_seed(self.seed)
        pixels = test[torch.randperm(len(test), generator=generator)[: self.n]]
        x = dequantize(pixels, generator=generator) if pixels.dtype == torch.uint8 else pixels
        n, dimensions = len(x), x.shape[1:].numel()
        # The generator of the seed itself has chosen the images.
        seed, sigma_min = block_seed(self.seed, 1), self.sigma_min or run.recipe.sampling.sigma_min
        probes = self.probes or 4
        solver: dict[str, Any] = {"sigma_min": sigma_min, "probes": probes, "tolerance": self.tolerance or 1e-3}
        states = run.likelihoods(x, **solver, batch_size=PART, seed=seed)
        parts = list(console.bar(states, f"{n} images", total=-(-n // PART)))
        bits = ncsn.bits_per_dimension(torch.cat([part.log_prob for part in parts]), dimensions)
        errors = torch.cat([part.standard_error for part in parts]) / (dimensions * math.log(2))
        what = "pixels (byte + u)/256" if pixels.dtype == torch.uint8 else "pixels in steps of 1/256"
        error, nfe = bits.std() / n**0.5, max(part.nfe for part in parts)
        print(
            f"{bits.mean():.3f} bits/dim ± {error:.3f} (over {n} test images; ± {errors.mean():.3f} an image over "
            f"{probes} probes), for {what} with noise {sigma_min:g}; up to {nfe} evaluations, "
            f"{time.perf_counter() - began:.0f} s"
        )

    def write_densities(self, run: "Run", place: Path) -> None:
        """The log density of each row of a table; a row with blanks has none."""
        import torch

        from ncsn.data.sources import TABLES
        from ncsn.data.tables import read_table, write_table
        from ncsn.run.imputation import check_numbers

        console.check_output(self.out, *TABLES, overwrite=self.overwrite)
        x = torch.from_numpy(read_table(place).matched(run.names, run.recipe.categories).rows).double()
        whole, density = ~x.isnan().any(1), x[:, :1] * torch.nan
        if not bool(whole.any()):
            raise ValueError(f"{place} has no row without blanks; only such rows have a density")
        check_numbers(run, x)  # before rows with blanks are left out, for their numbers
        # A looser solver makes rows likelier than they are, by up to a tenth of a nat.
        solver: dict[str, Any] = {"sigma_min": self.sigma_min, "probes": self.probes}
        solver["tolerance"] = self.tolerance or 1e-4
        states = run.likelihoods(x[whole], **solver, seed=self.seed, batch_size=ROWS)
        parts = console.bar(states, "log densities", total=-(-int(whole.sum()) // ROWS))
        density[whole, 0] = torch.cat([part.log_prob for part in parts])
        write_table(self.out, ["log_density"], density.numpy())
        print(f"{self.out}: log densities of {int(whole.sum())} rows, {density[whole].mean():.3f} nats on average")


@dataclass(frozen=True, kw_only=True)
class Info(RunOptions):
    """Print what a run is, and its numbers: its config.json and metrics.json."""

    def __call__(self) -> None:
        """Print how large it is, and its files."""
        import ncsn

        run = ncsn.load(self.run, device=self.device)
        print(f"{run.parameters:,} weights, {run.guide_parameters:,} of a guide")
        # Through a reader, because a terminal would take what a stranger has written for orders.
        for path in ((run.folder or self.run) / name for name in ("config.json", "metrics.json")):
            if path.exists():
                print(f"{path.name}: {json.dumps(read_json(path), indent=2)}")
