"""What several test files need."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pandas
import pytest
import torch
from jaxtyping import config
from torch import Tensor, nn

import ncsn
from ncsn.cli.commands import main
from ncsn.data.columns import Columns
from ncsn.data.transforms import Transform
from ncsn.tables.run import TableRun

Patch = pytest.MonkeyPatch
Printed = pytest.CaptureFixture[str]
Sigma: TypeAlias = float | Tensor
"""A noise level, or one for each example."""
AnyRun = TypeVar("AnyRun", bound=ncsn.Run)
SAMPLING = ncsn.Sampling(sigma_max=20.0, sigma_min=0.01, sampler="dpmpp-sde", levels=12, steps=1, eps=2e-5)
SMALL: dict[str, Any] = {"image_channels": 1, "channels": (8, 8), "blocks": 1, "features": 8}
DIGITS = ncsn.Recipe(network="UNet", arguments=SMALL, shape=(1, 28, 28), sampling=SAMPLING)


def z_score(samples: Tensor, expected: float) -> float:
    """How many standard errors the mean of independent samples lies from its expectation."""
    return float((samples.double().mean() - expected) / (samples.double().std() / len(samples) ** 0.5))


def expand(sigma: Sigma, x: Tensor) -> Tensor:
    """Noise levels shaped to broadcast against ``x``; a single one is created on its device, without a copy."""
    if isinstance(sigma, Tensor) and sigma.ndim:
        return sigma.to(x).view(-1, *[1] * (x.ndim - 1))
    if isinstance(sigma, Tensor) and sigma.device == x.device:
        return sigma.to(x)
    return torch.full((), float(sigma), dtype=x.dtype, device=x.device)


class GaussianScore:
    """The exact score of N(mean, std² I) with noise added."""

    def __init__(self, mean: float, std: float) -> None:
        self.mean, self.std = mean, std

    def __call__(self, x: Tensor, sigma: Sigma, /) -> Tensor:
        return (self.mean - x) / (self.std**2 + expand(sigma, x) ** 2)


def fit_table(data: object, **options: Any) -> TableRun:
    """``ncsn.fit`` of a table, without a word unless ``quiet=False``."""
    run = ncsn.fit(data, **{"quiet": True} | options)
    assert isinstance(run, TableRun)
    return run


def load_table(folder: object, **options: Any) -> TableRun:
    """``ncsn.load`` of the run of a table."""
    run = ncsn.load(str(folder), **options)
    assert isinstance(run, TableRun)
    return run


def table_run(
    start: dict[str, Any],
    columns: Columns | None = None,
    *,
    network: nn.Module | None = None,
    sigma_max: float = 15.0,
    sigma_min: float = 0.01,
) -> TableRun:
    """The run of an untrained model of every conditional.

    ``start``: the mean and covariance of its Gaussian of numbers and indicators, and more, as for ``Recipe.build``.
    ``columns``: of numbers and codes; by default numbers only, in the units of the model.
    """
    counts = columns.codes if columns is not None else ()
    d = len(columns.numbers) if columns is not None else len(start["covariance"])
    arguments: dict[str, Any] = {"dimensions": d, "width": 8, "blocks": 1, "conditional": True, "codes": counts}
    shape, name = (d + len(counts),), "ResidualMLP" if network is None else "Own"
    sampling = ncsn.Sampling.of("dpmpp-sde", sigma_max, sigma_min)
    recipe = ncsn.Recipe(
        network=name, arguments=arguments, preconditioning="conditional", shape=shape, sampling=sampling
    )
    model = recipe.build(start, network=network).requires_grad_(False)
    run = TableRun.of(model, shape, sigma_max=sigma_max, sigma_min=sigma_min)
    return run if columns is None else with_transform(run, columns)


def conditional_run(covariance: Tensor, mean: Tensor | None = None, *, sigma_max: float = 15.0) -> TableRun:
    """The run of a Gaussian's exact conditionals, which are the score of an untrained network."""
    mean = torch.zeros(len(covariance)) if mean is None else mean
    return table_run({"mean": mean, "covariance": covariance}, sigma_max=sigma_max)


def storms(n: int) -> pandas.DataFrame:
    """A quarter are hurricanes; the others are depressions, which have no category and often a damage of 0.

    Winds are multiples of 5.
    """
    rng = np.random.default_rng(0)
    hurricane = rng.random(n) < 0.25
    wind = np.where(hurricane, 65 + rng.exponential(20, n), rng.normal(30, 6, n))
    category = np.where(hurricane, np.digitize(wind, [83, 96, 113, 137]) + 1.0, np.nan)
    status, none = np.where(hurricane, "hurricane", "depression"), ~hurricane & (rng.random(n) < 0.6)
    damage = np.where(none, 0, rng.lognormal(8, 1, n).round(2))
    return pandas.DataFrame({"status": status, "wind": 5 * (wind / 5).round(), "category": category, "damage": damage})


THREE = torch.tensor([[1.0, 0.8, 0.3], [0.8, 1.0, 0.5], [0.3, 0.5, 1.0]]).double()


def gaussian_rows(n: int, covariance: Tensor = THREE, *, seed: int = 0) -> Tensor:
    z = torch.randn(n, len(covariance), generator=torch.Generator().manual_seed(seed)).double()
    rows: Tensor = z @ torch.linalg.cholesky(covariance).T
    return rows


def with_transform(run: AnyRun, transform: Transform) -> AnyRun:
    return replace(run, recipe=replace(run.recipe, transform=transform))


def judge(run: ncsn.Run, data: Any, samples: Tensor, **options: Any) -> dict[str, float]:
    """The numbers of ``evaluate`` if the run had drawn these samples, in the user's units; densities are left out."""

    class Drawn:
        def last(self) -> Tensor:
            return samples

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(run), "blocks", lambda *_, **__: iter([Drawn()]))
        patch.setattr(type(run), "log_densities", lambda *_, **__: iter([SimpleNamespace(log_prob=torch.zeros(1))]))
        result = ncsn.evaluation.evaluate(run, data, **options)
    numbers = result.report()
    left_out = ("n", "log_density", "columns", "constraints")
    return {name: float(value) for name, value in numbers.items() if name not in left_out}


def zero_score(x: Tensor, sigma: Sigma, /) -> Tensor:
    return torch.zeros_like(x)


@contextmanager
def unchecked() -> Iterator[None]:
    """As a user calls the package: shapes are not checked, and what is wrong must be said."""
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", False)


def command(line: str) -> None:
    """Run ``ncsn`` on the processor, with arguments without blanks in them."""
    main([*line.split(), "--device", "cpu"])


def refusal(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Run ``ncsn`` with arguments that must be refused; returns the line that says why."""
    capsys.readouterr()
    with pytest.raises(SystemExit, match=r"^2$"):
        main(list(args))
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    return printed.err


def refuses(cases: Sequence[tuple[Callable[[], object], str]]) -> Callable[..., None]:
    """A test that each call is refused with its message."""

    @pytest.mark.parametrize(("call", "message"), cases)
    def test(call: Callable[[], object], message: str) -> None:
        with unchecked():
            assert re.search(message, refused(call))

    return test


def refused(call: Callable[[], object], *, naming: str = "") -> str:
    """What a call is refused with, in one line that names the file; empty if it succeeds.  Anything else passes on."""
    try:
        call()
    except ValueError as error:
        message = str(error)
        assert message.isprintable()
        assert naming in message
        return message
    return ""


def per_example(sigma: float | Tensor, x: Tensor) -> Tensor:
    """Noise levels, one for all examples or one for each, in a shape that is multiplied with ``x``."""
    levels = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
    return levels.expand(len(x)).view(-1, *[1] * (x.ndim - 1))


class Counting:
    """A score that counts how often it is evaluated."""

    def __init__(self, score: ncsn.Score) -> None:
        self.score, self.nfe = score, 0

    def __call__(self, x: Tensor, sigma: float | Tensor, /) -> Tensor:
        self.nfe += 1
        return self.score(x, sigma)


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """The unbiased squared maximum mean discrepancy with the kernel (⟨x, y⟩/f + 1)³, over all pairs of two points."""

    def kernels(a: Tensor, b: Tensor) -> Tensor:
        return (a.double() @ b.double().T / a.shape[1] + 1) ** 3

    pairs = [k.sum() - k.diagonal().sum() for k in (kernels(x, x), kernels(y, y))]
    n, m = len(x), len(y)
    return float(pairs[0] / (n * (n - 1)) + pairs[1] / (m * (m - 1)) - 2 * kernels(x, y).mean())


def image_run(score: ncsn.Score, shape: tuple[int, int, int], *, sigma_max: float, sigma_min: float) -> ncsn.Run:
    """The run of images with any score."""
    recipe = ncsn.Run.of(score, shape, sigma_max=sigma_max, sigma_min=sigma_min).recipe
    mnist = ncsn.load("mnist", device="cpu")
    return replace(mnist, score=score, recipe=recipe, guide=None, settings={}, origin=None, folder=None)


COMMANDS = [
    *("train", "sample", "evaluate", "likelihood", "calibrate", "impute", "doubt"),
    *("inpaint", "denoise", "superres", "deblur", "export", "play"),
]


def run_ncsn(*words: str) -> None:
    """Run ``ncsn`` with these words, which may have blanks in them."""
    main(list(words))


def edit_config(folder: Path, change: Callable[[dict[str, Any]], object], *, digest: bool = True) -> None:
    """Change a run's config.json in place, with the digest of what it then holds, or with the one that it had."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    written = content.pop("sha256")
    change(content)
    changed = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(content | {"sha256": changed if digest else written}))
