"""``ncsn evaluate``."""

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from annotated_types import Interval

from ncsn.cli import drawing
from ncsn.cli.options import HowToSample
from ncsn.data.options import Reading
from ncsn.files import check_out
from ncsn.learn.settings import given_ones
from ncsn.validation import DeviceName, Seed

if TYPE_CHECKING:
    from torch import Tensor

    from ncsn.data import Images
    from ncsn.distributed import Group
    from ncsn.evaluation import Evaluation
    from ncsn.run import Run

MNIST = (1, 28, 28)
Judged = Annotated[int, Interval(ge=100, le=10**4)]
PAGE, NUMBERS, SAMPLES = "evaluation.png", "evaluation.json", "evaluation.npz"


@dataclass(frozen=True, kw_only=True)
class Evaluate(HowToSample, Reading):
    """Measure how good a run's samples are, or anybody's in an .npz file: every number beside real images'."""

    source: tyro.conf.Positional[Path]
    """A run's folder, mnist, hf://user/model, or an .npz file with images under the key samples, or as its only array:
    bytes, or reals in [0, 1]."""
    data: str | None = None
    """Where the data set is that the run was trained on, if it has moved."""
    against: str | None = None
    """A data set to judge by instead of the run's own, or for a file: a name, a folder, an archive or an array.  It is
    read by --size, --fit, --background and --max-broken."""
    features: str = "auto"
    """What distances are measured in: pixels, classifier (trained on the data's classes, and kept), efficientnet,
    inception:WEIGHTS (then it is FID), dinov2:FOLDER, or your network's file .onnx, .pt or .ts.  auto: for MNIST the
    classifier in the package, else classifier where there are classes and efficientnet where there are none."""
    n: Annotated[Judged, tyro.conf.arg(name="n", aliases=["-n"])] = 10_000
    """How many samples, as far as there are as many test images; numbers from fewer than 10,000 are not comparable to
    others'."""
    seed: Seed = 0
    """For drawing the samples of a run."""
    device: DeviceName = "auto"
    """auto: CUDA where there is one, else the CPU."""
    out: Path | None = None
    """A folder for evaluation.json, evaluation.png and, of a run, the samples, evaluation.npz; by default where the
    source is."""
    overwrite: bool = False
    """Replace an earlier evaluation there."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        super().__post_init__()
        if self.data is not None and (self.against is not None or self.is_file):
            raise ValueError("--data is where a run's own data set is; to judge by another, or a file, give --against")
        given = given_ones(self, (*self.how(), "seed"))
        if self.is_file and given:
            options = ", ".join("--" + {"label": "class"}.get(name, name).replace("_", "-") for name in given)
            raise ValueError(f"{self.source} has its samples already; {options} would say how to draw them")
        if self.against is None and self.reading != Reading():
            raise ValueError("--size, --fit, --background and --max-broken are about --against, which is not given")

    @property
    def is_file(self) -> bool:
        """Whether the samples are in a file."""
        return self.source.suffix == ".npz"

    def __call__(self) -> None:
        """Draw if need be, judge, and write."""
        import ncsn
        from ncsn import data, distributed, evaluation, machine, plots, process, storage
        from ncsn.pixels import BYTES

        group = distributed.join()
        run = None if self.is_file else ncsn.load(self.source, device=self.device)
        if not group.leads:
            self.help_along(run, group)
            return
        out = self.place(run)
        about: dict[str, Any] = {"source": str(self.source)}
        given = None if self.against is None else data.load_images(self.against, reading=self.reading)
        if run is None:
            depth = BYTES if given is None else given.depth
            samples, said = evaluation.read_samples(self.source, self.n, depth=depth)
            for line in said:
                print(line)
        images = self.judges(run, given, run.recipe.shape if run is not None else tuple(samples.shape[1:]))
        print(f"data: {images.name}, {images.describe()}")
        # Before any sample is drawn: what is wrong with them should not take minutes to be said.
        bytes_of = evaluation.at_8_bits(images)
        seen_by = evaluation.choose(bytes_of, self.features, machine.choose_device(self.device))
        if self.features == "auto" and seen_by.embed is None:
            print("only pixels are compared; images without classes have features after pip install 'ncsn[features]'")
        if run is not None:
            samples, how = self.draw(run, images, out, group)
            about |= how
            process.return_memory()
        began = time.perf_counter()
        found = evaluation.evaluate(samples, images, seen_by)
        if run is not None and self.label not in (None, "any", "none"):
            one = f"samples of class {self.label} alone, beside images of all classes: they differ for that alone"
            found = replace(found, notes=(*found.notes, one))
        about |= {"data": images.name, "data_digest": images.digest}
        about["evaluation_seconds"] = time.perf_counter() - began
        storage.write_json(out / NUMBERS, about | found.report())
        shown = samples[: min(30, found.n // 10 * 10)]
        _, neighbours = evaluation.nearest(shown, bytes_of.train)
        plots.evaluation_page(shown, bytes_of.train[neighbours], found, out / PAGE)
        show(found)
        print(f"{out}: {', '.join(self.written)}")

    def judges(self, run: "Run | None", given: "Images | None", shape: tuple[int, ...]) -> "Images":
        """The data to judge by, as ``given`` or the run's.

        Raises ValueError if it is not known, or if its images have another shape than the samples.
        """
        from ncsn import data

        if len(shape) != 3:
            raise ValueError(f"{self.source} makes examples of shape {shape}; only images can be judged")
        if given is not None:
            images = given
        elif run is not None:
            images = run.data(self.data)
        elif shape == MNIST:
            print(f"{self.source} is taken for digits, and judged by MNIST; --against DATA judges by others")
            images = data.mnist()
        else:
            raise ValueError(f"{self.source} holds images of shape {shape}; give --against DATA, what to judge them by")
        if images.shape != shape:
            raise ValueError(
                f"{self.source} has images of shape {shape}, the data of {images.shape}; they must be equal"
            )
        return images

    def help_along(self, run: "Run | None", group: "Group") -> None:
        """Draw some of the samples that another process judges."""
        if run is not None:
            n = int(group.share())
            for _ in drawing.draw_blocks(run, n, seed=self.seed, group=group, **self.how()):
                pass

    def draw(self, run: "Run", images: "Images", out: Path, group: "Group") -> "tuple[Tensor, dict[str, Any]]":
        """As many samples of a run as can be judged, and how they were drawn."""
        import torch

        from ncsn import evaluation
        from ncsn.pixels import quantize

        n = min(self.n, len(images.test), len(images.validation), len(images.train))
        if n < self.n:
            print(f"{n} samples instead of {self.n}: there are no more real images to compare with", file=sys.stderr)
        group.share(str(n).encode())
        began, parts = time.perf_counter(), []
        for drawn in drawing.draw_blocks(run, n, seed=self.seed, group=group, **self.how()):
            parts.append(quantize(drawn.samples))
        samples = torch.cat(parts)
        evaluation.write_samples(out / SAMPLES, samples)
        return samples, {
            "run_digest": run.digest,
            "seed": self.seed,
            "sampler": drawn.sampling.sampler,
            "class": self.label,
            "guidance": drawn.sampling.guidance,
            "guide": drawn.sampling.guide,
            "nfe": drawn.nfe,
            "guide_nfe": drawn.guide_nfe,
            "sampling_seconds": time.perf_counter() - began,
        }

    @property
    def written(self) -> tuple[str, ...]:
        """What is written."""
        return (NUMBERS, PAGE) if self.is_file else (NUMBERS, PAGE, SAMPLES)

    def place(self, run: "Run | None") -> Path:
        """The folder to write into: as given, or where the source is; for a run of the package or of the hub, here.

        Raises ValueError if it may not be written there.
        """
        folder = self.source.parent if run is None else self.source
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)
            folder = self.out
        elif run is not None and run.folder != self.source:
            folder = Path()
        for name in self.written:
            check_out(folder / name, overwrite=self.overwrite)
        return folder


def show(found: "Evaluation") -> None:
    """The numbers as a table, with what a reader must know."""
    right = "" if found.accuracy is None else f", {found.accuracy:.1%} right on the validation images"
    print(f"features: {found.features}{right}")
    for note in found.notes:
        print(f"note: {note}")
    print(f"n = {found.n}{'' if found.comparable else ', too few to be comparable'}")
    print(f"{'':<18}{'generated':>11}{'held out':>11}{'training':>11}{'ratio':>9}{'to training':>13}")
    for name, metric in found.metrics.items():
        numbers = f"{metric.generated:11.4g}{metric.held_out:11.4g}{metric.training:11.4g}"
        ratios = f"{ratio(metric.ratio):>9}{ratio(metric.ratio_to_training):>13}"
        print(f"{name:<18}{numbers}{ratios}".rstrip())


def ratio(value: float | None) -> str:
    """A ratio, or nothing where there is none."""
    return "" if value is None else f"{value:.2f}"
