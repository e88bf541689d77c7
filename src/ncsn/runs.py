"""A run's folder: everything that is needed to continue, sample or evaluate it, and nothing unpickled.

``config.json``              the settings that the run was started with, and its ``Recipe``
``model.safetensors``        the averaged weights, with the data's mean and std
``checkpoint.pt``            the whole training state, to resume from
"""

import json
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ncsn import networks
from ncsn.files import atomic
from ncsn.machine import fast_bfloat16
from ncsn.noise import Geometric
from ncsn.samplers import annealed_langevin, langevin
from ncsn.score import Score, ScoreModel

CONFIG_VERSION = 1

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to build a run's network, and how to sample it.

    ``network``: a class of ``ncsn.networks``, and ``arguments`` for it.  ``shape``: of one example.
    ``noise``: the ladder to descend, with ``steps`` Langevin steps of ε = ``eps`` on each level.
    Raises ValueError unless 0 < ε < 4σ_L², beyond which annealing diverges, and steps ≥ 1.
    """

    network: str
    arguments: dict[str, Any]
    shape: tuple[int, ...]
    noise: Geometric
    eps: float
    steps: int

    def __post_init__(self) -> None:
        """Refuse, before a long training, what could not be sampled after it."""
        limit = 4 * self.noise.sigma_min**2
        if not 0 < self.eps < limit or self.steps < 1:
            raise ValueError(
                f"eps is {self.eps}, steps is {self.steps}; allowed are 0 < eps < {limit:.3g}, and at least 1"
            )

    def build(self) -> nn.Module:
        """The network, untrained.  Raises ValueError if this version has no such network."""
        if self.network not in networks.__all__:
            raise ValueError(f"{self.network} is no network; allowed are {', '.join(networks.__all__)}")
        network: nn.Module = getattr(networks, self.network)(**self.arguments)
        return network

    @property
    def nfe(self) -> int:
        """Network evaluations a sample, the final denoising step included."""
        return self.noise.levels * self.steps + 1

    def states(self, sampler: str) -> int:
        """How many states the sampler ``annealed`` or ``langevin`` yields."""
        return self.noise.levels + 1 if sampler == "annealed" else self.nfe

    def start(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n *d"]:
        """``n`` draws from N(0, σ_1²), where annealing starts."""
        return self.noise.sigma_max * torch.randn((n, *self.shape), generator=generator, device=generator.device)

    def annealed(
        self, score: Score, x: Float[Tensor, "b *d"], *, generator: torch.Generator
    ) -> Iterator[Float[Tensor, "b *d"]]:
        """Annealed Langevin dynamics down the ladder: one state a level, and the denoised one."""
        sigmas = self.noise.sigmas(device=x.device)
        return annealed_langevin(score, x, sigmas, eps=self.eps, steps=self.steps, generator=generator)

    def langevin(
        self,
        score: Score,
        x: Float[Tensor, "b *d"],
        *,
        step_size: float | None = None,
        generator: torch.Generator,
    ) -> Iterator[Float[Tensor, "b *d"]]:
        """Langevin dynamics on the smallest level for as many steps: one state a step, and the denoised one.

        ``step_size`` is α; by default that of annealing's last level, ε.
        """
        sigma = self.noise.sigmas(device=x.device)[-1]
        steps = self.noise.levels * self.steps
        return langevin(
            score, x, sigma, step_size=self.eps if step_size is None else step_size, steps=steps, generator=generator
        )


def claim(folder: Path, *, overwrite: bool = False, resume: bool = False) -> None:
    """Make sure that a run may write into ``folder``, and create it; with ``overwrite`` an old run is removed first.

    Only files that runs write are removed.
    Raises ValueError if the folder holds another run, or if there is nothing to resume.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; a folder is needed")
    if overwrite and resume:
        raise ValueError("both --overwrite and --resume are given; at most one is allowed")
    if resume:
        if not (folder / "checkpoint.pt").is_file():
            raise ValueError(f"{folder} has no checkpoint.pt to resume from")
        return
    if (folder / "config.json").exists() and not overwrite:
        raise ValueError(
            f"{folder} holds another run; give --overwrite to replace it, --resume to continue it, or another --out"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors", "checkpoint.pt", "metrics.jsonl", "metrics.json"):
        (folder / name).unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` as indented JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_config(folder: Path, experiment: str, settings: dict[str, Any], recipe: Recipe) -> None:
    """Write config.json: which script made the run, its settings, and how to rebuild and sample its model."""
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
    content = {
        "version": CONFIG_VERSION,
        "experiment": experiment,
        "settings": plain,
        "recipe": asdict(recipe),
    }
    write_json(folder / "config.json", content)


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a run's config.json.

    Raises ValueError if the folder is no run, or the file cannot be read or is of another version.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} is no run: it has no config.json")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = content["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from error
    if version != CONFIG_VERSION:
        raise ValueError(f"{path} is of version {version}; this program reads version {CONFIG_VERSION}")
    return content


def continued(settings: T, experiment: str, folder: Path, new: Collection[str]) -> T:
    """The settings that the run in ``folder`` was started with, but for the fields ``new``, which stay as given.

    Raises ValueError as ``read_config``, and if the run is of another experiment.
    """
    config = read_config(folder)
    if config["experiment"] != experiment:
        raise ValueError(f"{folder} is a run of {config['experiment']}, not of {experiment}")
    old = {k: tuple(v) if isinstance(v, list) else v for k, v in config["settings"].items() if k not in new}
    return replace(settings, **old)  # type: ignore[type-var]


def trim_rows(path: Path, step: int) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl up to ``step``; later ones, from before a crash, are dropped from the file too."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows: list[dict[str, Any]] = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:  # the line that a kill cut short
            break
        if row["step"] <= step:
            rows.append(row)
    with atomic(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return rows


def read_results(folder: Path) -> dict[str, Any]:
    """The content of a run's metrics.json; empty while the run has not finished."""
    path = folder / "metrics.json"
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return results


def read_recipe(folder: Path) -> Recipe:
    """The recipe in a run's config.json.  Raises ValueError as ``read_config``, and if the recipe is not whole."""
    try:
        fields = dict(read_config(folder)["recipe"])
        return Recipe(**{**fields, "noise": Geometric(**fields["noise"]), "shape": tuple(fields["shape"])})
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'config.json'} has no whole recipe ({error})") from error


def save_model(folder: Path, model: ScoreModel) -> None:
    """Write model.safetensors, atomically."""
    with atomic(folder / "model.safetensors") as temporary:
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, temporary)


def load(folder: str | Path) -> ScoreModel:
    """The trained score of a run, from its folder: ``score(x, sigma)`` in the units of the data.

    Raises ValueError if the folder is no run, or if its weights are missing, cut short or of another network.
    """
    folder = Path(folder)
    recipe = read_recipe(folder)
    images = len(recipe.shape) == 3  # their 256 levels survive bfloat16; points in the plane would lose digits
    model = ScoreModel(recipe.build(), 0.0, 1.0, autocast=images and fast_bfloat16(torch.device("cpu")))
    path = folder / "model.safetensors"
    try:
        weights = load_file(path)
        model.data_mean = torch.empty_like(weights["data_mean"])
        model.load_state_dict(weights)
    except FileNotFoundError as error:
        raise ValueError(f"{folder} has no model.safetensors: its training has not finished a checkpoint") from error
    except (SafetensorError, KeyError, RuntimeError, OSError) as error:
        raise ValueError(
            f"{path} is not the whole model that config.json describes ({str(error).splitlines()[0]})"
        ) from error
    return model.requires_grad_(False).eval()
