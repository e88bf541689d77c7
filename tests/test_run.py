"""A run is a noun: what it draws, measures and saves, by the closed forms of Gaussians; and how it is built again."""

import copy
import hashlib
import json
import math
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import GaussianScore, conditional_run, per_example, refused, refuses, unchecked, z_score, zero_score
from pretend import Pretend
from safetensors.torch import load_file, save
from torch import Tensor, nn

import ncsn
from ncsn import Recipe, Run, Sampling, ScoreModel
from ncsn.batching import batches
from ncsn.data.columns import Columns, Number
from ncsn.distributions import TOYS, Empirical
from ncsn.networks import MLP
from ncsn.noise import LogNormal, LogUniform
from ncsn.posteriors import blurred, downsampled, masked
from ncsn.settings import Job

SAMPLING = Sampling(sigma_max=20.0, sigma_min=0.05, sampler="dpmpp-sde", levels=40, steps=1, eps=0.001)
LAYERS: dict[str, Any] = {"dimensions": 2, "width": 8, "layers": 1}
UNITS = Columns((Number(name="a", shift=1500.0, scale=1200.0), Number(name="b", shift=-3.0, scale=0.01)), single=True)
SHIFT, SCALE, _ = UNITS.affine((2,))
RECIPE = Recipe(network="MLP", arguments=LAYERS, shape=(2,), sampling=SAMPLING)
IN_UNITS = replace(RECIPE, transform=UNITS)
PICTURES = Recipe(
    network="UNet",
    arguments={"image_channels": 1, "channels": (4, 8), "blocks": 1, "features": 4, "num_classes": 2},
    shape=(1, 8, 8),
    sampling=SAMPLING,
    shares={"cats": 0.25, "dogs": 0.75},
)
STANDARD = GaussianScore(0.0, 1.0)
NAMES = [*"987654321", "ten"]


def standard(recipe: Recipe = IN_UNITS) -> Run:
    """A standard normal in the model's units."""
    return Run(score=STANDARD, recipe=recipe)


class Labelled(nn.Module):
    """Class k is at k, in every coordinate, with a standard deviation of 0.1; all classes together are around 4.5."""

    def forward(self, x: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        if label is None:
            return (4.5 - x) / (3.0**2 + per_example(sigma, x) ** 2)
        return (label.view(-1, 1) - x) / (0.1**2 + per_example(sigma, x) ** 2)


def labelled(shares: dict[str, float] | None = None, **sampling: Any) -> Run:
    shares = dict.fromkeys(NAMES, 0.1) if shares is None else shares
    recipe = replace(RECIPE, arguments={"num_classes": 10}, shares=shares, sampling=replace(SAMPLING, **sampling))
    return Run(score=Labelled(), recipe=recipe)


def model(seed: int = 0, **change: Any) -> ScoreModel:
    torch.manual_seed(seed)
    made = replace(RECIPE, **change).build({"data_mean": torch.tensor([1.0, -2.0]), "data_std": 3.0})
    nn.init.normal_(made.network.output.weight)  # type: ignore[union-attr, arg-type]
    return made


def test_samples_and_their_way_are_in_the_units_of_the_data() -> None:
    steps = standard().steps(40, seed=1)
    path = list(steps)
    assert len(path) == len(steps) == 40
    x = standard().sample(40, seed=1)
    assert torch.equal(path[-1].x, x)
    torch.testing.assert_close(x, UNITS.inverse(standard(RECIPE).sample(40, seed=1)))


def test_a_run_without_units_takes_no_number_for_impossible() -> None:
    wide = conditional_run(1e4 * torch.eye(2), sigma_max=1000.0)
    draws = wide.impute([[90.0, np.nan]], 20).draws
    assert draws[:, 0].std(0).tolist() == [0, pytest.approx(100, rel=0.5)]


def posterior(y: Tensor) -> Any:
    return standard().posterior(lambda x: x, y, noise_std=0.1)


def guided() -> Run:
    return replace(labelled(guidance=3.0), guide=GaussianScore(0.0, 3.0))


def test_a_class_goes_by_its_name_or_its_number_and_can_be_read_from_what_is_drawn() -> None:
    run, levels = labelled(), (9.0, 1.0, 0.125)
    labels: dict[int | str, int] = {"9": 0, 9: 0, "ten": 9, "0": 0, 0: 0, "1": 8, 1: 8}  # a folder called 9 is first
    for label, expected in labels.items():
        assert float((run.sample(20, label=label) - expected).abs().max()) < 0.6
    for given in (torch.tensor(levels), np.array(levels), [*levels]):
        tensors = run.sample(3, label=torch.tensor(3), levels=given)
        assert torch.equal(tensors, run.sample(3, label=3, levels=levels))
    wanted = torch.arange(20) % 10  # places
    assert torch.equal(run.sample(20, label=wanted).mean(1).round().long(), wanted)
    assert float(run.sample(200, label="none").std()) > 2, "the score of all classes together is wide"
    # A measurement says which class it may have been.
    seen = run.posterior(lambda v: v, torch.tensor([4.5, 4.5]), noise_std=0.5)
    assert torch.equal(seen.sample(5), seen.sample(5, label="none"))
    assert not torch.equal(seen.sample(5), seen.sample(5, label=5))
    alike = guided().posterior(lambda v: v, torch.tensor([4.5, 4.5]), noise_std=0.5)
    assert torch.equal(alike.sample(5, particles=1), seen.sample(5, particles=1)), "guidance would distort it"


@pytest.mark.parametrize("known", [True, False])
def test_classes_are_drawn_by_their_shares_or_evenly(known: bool) -> None:
    shares = torch.tensor([0.5, 0.3, 0.2] + 7 * [0.0] if known else 10 * [0.1])
    run = labelled(dict(zip("abcdefghij", shares.double().tolist(), strict=True)) if known else {})
    x = run.sample(2000, label="any", seed=3)
    drawn = torch.bincount(x.mean(1).round().long(), minlength=10) / 2000
    assert bool(((drawn - shares).abs() < 1 / 2000 + 1e-6).all()), "of each as many as its share says, but for one"
    first = [run.recipe.labels("any", 10, torch.Generator().manual_seed(seed)) for seed in range(400)]
    alone = torch.bincount(torch.stack([x[0] for x in first if x is not None]), minlength=10) / 400
    assert bool(((alone - shares).abs() <= 4 * (shares * (1 - shares) / 400).sqrt()).all()), "in random order"
    assert torch.equal(run.sample(2000, seed=3), run.sample(2000, seed=3, label="any" if known else "none"))


def test_guidance_with_a_class_is_that_of_ho_and_salimans() -> None:
    """One step of Euler's method on one level, then the denoised state: w·s(x, c) + (1 − w)·s(x), by hand."""
    run, w, sigma = labelled(), 2.5, 1.4
    start = torch.tensor([[1.0, -2.0], [0.5, 4.0]])
    x = run.sample(2, start=start, sampler="euler", levels=(sigma,), guidance=w, label=torch.tensor([3, 8]))
    of_class = (torch.tensor([[3.0], [8.0]]) - start) / (0.1**2 + sigma**2)
    of_all = (4.5 - start) / (3.0**2 + sigma**2)
    torch.testing.assert_close(x, start + sigma**2 * (w * of_class + (1 - w) * of_all))


@pytest.mark.parametrize(
    ("own", "how", "costs", "weight"),
    [
        ("smaller", {}, (0, 1), 3),
        ("smaller", {"guidance": 1.0}, (0, 0), 1),
        ("smaller", {"sampler": "annealed"}, (0, 0), 1),
        ("smaller", {"sampler": "annealed", "guidance": 2.0}, (0, 1), 2),
        ("unconditional", {}, (1, 0), 3),
        ("unconditional", {"label": "none"}, (0, 0), 1),
        ("none", {}, (1, 0), 3),
        ("none", {"label": "none"}, (0, 0), 1),
    ],
)
def test_the_guide_is_asked_within_its_interval_alone(
    own: str, how: dict[str, Any], costs: tuple[int, int], weight: float
) -> None:
    run = labelled(guidance=3.0, guide="unconditional" if own == "unconditional" else "smaller")
    run = run if own == "none" else replace(run, guide=GaussianScore(0.0, 3.0))
    steps = run.steps(5, **{"label": 3} | how)
    last = list(steps)[-1].x
    sampling = steps.sampling
    inside = sum(0.2 <= sigma <= 1.5 for sigma in sampling.ladder().tolist()) * sampling.steps
    assert sampling.guidance == weight
    assert (steps.nfe - sampling.nfe, steps.guide_nfe) == (costs[0] * inside, costs[1] * inside)
    plain = run.sample(5, **{"label": 3} | how | {"guidance": 1.0})
    assert torch.equal(last, plain) == (weight == 1)


def test_a_smaller_guide_is_told_the_class_too(pictures: Path) -> None:
    """One that is the score itself changes nothing, unless they are told different classes."""
    run = ncsn.load(pictures, device="cpu")
    run = replace(run, guide=run.score)
    for label in (torch.tensor([0, 1, 1]), "none"):
        plain = run.sample(3, label=label, guidance=1.0)
        assert torch.equal(run.sample(3, label=label, guidance=2.0), plain)
        assert not torch.equal(run.sample(3, label=0), plain)


def test_no_two_blocks_are_alike() -> None:
    run = labelled({**dict.fromkeys(NAMES, 0.05), "3": 0.55}, levels=9)
    for n in (3, 1000, 3500):
        blocks = [steps.last() for steps in run.blocks(n, seed=5)]
        assert [len(x) for x in blocks] == [1000] * (n // 1000) + [n % 1000] * (n % 1000 > 0)
        assert torch.equal(blocks[0], run.sample(min(1000, n), seed=5))
    # Blocks of other seeds are in test_randomness.
    assert not any(torch.equal(*pair) for pair in combinations(blocks[:3], 2))
    large = Run.of(zero_score, (2**23,), sigma_max=5.0, sigma_min=0.5)
    assert [len(steps.last()) for steps in large.blocks(3, sampler="euler", levels=2)] == [2, 1]


def test_log_densities_are_in_the_units_of_the_data() -> None:
    x = UNITS.inverse(torch.tensor([[0.0, 0.0], [1.0, -2.0], [0.3, 0.7]]))
    normal = torch.distributions.Normal(SHIFT, math.sqrt(1 + 0.05**2) * SCALE)
    truth = normal.log_prob(x).sum(1).double()  # type: ignore[no-untyped-call]
    for given in (x, x.numpy(), x.double().numpy()):
        found = standard().log_prob(given, tolerance=1e-6)
        torch.testing.assert_close(found, truth, atol=6e-3, rtol=0)  # √D/(√2σ_max²) = 0.0025
    learned, rough = (Run(score=model(), recipe=IN_UNITS) for _ in range(2))
    torch.testing.assert_close(learned.log_prob(x), learned.log_prob(x, batch_size=2), atol=0.02, rtol=0)
    rough.model.autocast = torch.bfloat16  # in which nothing adaptive is computed
    assert torch.equal(rough.log_prob(x), learned.log_prob(x))
    assert not torch.equal(learned.log_prob(x, probes=1), learned.log_prob(x, probes=1, seed=1))
    parts = learned.log_prob(x[:1].repeat(8, 1), probes=1, batch_size=1)
    assert len(set(parts.tolist())) > 1, "each part has probes of its own"


def test_each_measurement_may_have_noise_of_its_own_and_each_sample_a_measurement() -> None:
    noise, y = torch.tensor([120.0, 0.01]), torch.tensor([[2700.0, -3.0], [300.0, -2.98]])
    x = standard().posterior(lambda x: x, y.repeat_interleave(700, 0), noise_std=noise).sample(1400, seed=6, levels=16)
    share = SCALE**2 / (SCALE**2 + noise**2)
    for part, measured in ((x[:700], y[0]), (x[700:], y[1])):
        expected = SHIFT + share * (measured - SHIFT)
        for column in range(2):
            assert abs(z_score(part[:, column], float(expected[column]))) < 5
            assert float(part[:, column].std()) == pytest.approx(float(noise[column] * share[column].sqrt()), rel=0.12)


def test_known_coordinates_are_replaced_in_the_units_of_the_data() -> None:
    known = torch.tensor([False, True])
    x = standard().replacement(known, torch.tensor([0.0, -2.985])).sample(500, seed=7, steps=20)
    assert float((x[:, 1] + 2.985).abs().max()) < 0.01 * 0.05 * 5
    assert float(x[:, 0].std()) > 500


@pytest.mark.slow
def test_a_compiled_run_samples_without_compiling_again_and_has_posteriors_and_densities() -> None:
    """Torch compiles no gradients that are asked for more than once; and the trial is what sampling asks for.

    In a process of its own, for what checks types does not compile.
    """
    code = """
import torch
from torch._dynamo.utils import counters
import ncsn
from ncsn.posteriors import masked

run = ncsn.fit(torch.randn(1000, 2), steps=1)
posterior = run.posterior(masked(torch.tensor([False, True])), torch.tensor([0.5]), noise_std=0.1)
x = run.sample(4, levels=3)

def drawn():
    return posterior.sample(4, levels=3), run.log_prob(x, tolerance=0.1), run.log_prob(x, probes=2, tolerance=0.1)

expected = drawn()
run.compile(4)
torch.testing.assert_close(run.sample(4, levels=3), x)
assert all(torch.equal(*pair) for pair in zip(drawn(), expected, strict=True))
print(counters["stats"]["unique_graphs"])
"""
    compiled = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert compiled.returncode == 0, compiled.stderr
    assert compiled.stdout.split()[-1] == "1"


def test_a_run_that_is_saved_copied_or_pickled_is_the_same(tmp_path: Path) -> None:
    smaller = replace(RECIPE, arguments=RECIPE.arguments | {"width": 4})
    guide = model(1, arguments=smaller.arguments)
    run = Run(score=model(), recipe=IN_UNITS, guide=guide, guide_recipe=smaller, settings={"steps": 3})
    run.save(tmp_path / "mine")
    numbers = torch.get_rng_state()
    loaded = ncsn.load(tmp_path / "mine", device="cpu")
    assert torch.equal(torch.get_rng_state(), numbers), "the user's random numbers go on"
    loaded.save(tmp_path / "copy")
    assert (loaded.folder, loaded.device.type) == (tmp_path / "mine", "cpu")
    for again in (loaded, ncsn.load(tmp_path / "copy"), copy.deepcopy(run), pickle.loads(pickle.dumps(run))):
        assert torch.equal(again.sample(6, seed=1, guidance=2.0), run.sample(6, seed=1, guidance=2.0))
        assert (again.recipe, again.guide_recipe, again.settings) == (IN_UNITS, smaller, {"steps": 3})
        assert again.digest == run.digest
    others = [replace(run, score=model(1)), replace(run, guide=None), replace(run, recipe=RECIPE)]
    others.append(replace(run, score=copy.deepcopy(run.model).to(torch.bfloat16)))
    assert len({run.digest, *(other.digest for other in others)}) == 5
    with pytest.raises(ValueError, match="holds another run"):
        run.save(tmp_path / "mine")
    with pytest.raises(ValueError, match="guide_recipe"):
        replace(run, guide_recipe=None).save(tmp_path / "mine", overwrite=True)
    assert ncsn.load(tmp_path / "mine", device="cpu").digest == run.digest
    guided = replace(run, recipe=replace(IN_UNITS, sampling=replace(SAMPLING, guidance=2.0)))
    guided.save(tmp_path / "guided")
    (tmp_path / "guided" / "guide" / "config.json").unlink()
    with pytest.raises(ValueError, match="guide is not a run"):
        ncsn.load(tmp_path / "guided")
    others[1].save(tmp_path / "mine", overwrite=True)
    assert ncsn.load(tmp_path / "mine", device="cpu").digest == others[1].digest


LEARNED, KNOWN = Run(score=model(), recipe=IN_UNITS, guide=model(1)), torch.tensor([False, True])
MEASURED = LEARNED.posterior(masked(KNOWN), torch.tensor([-2.99]), noise_std=0.1)
X, IMAGE = torch.ones(4, 2), torch.ones(1, 1, 6, 6)
OF_ANY_EXAMPLES = [name for name, spec in ncsn.SAMPLERS.items() if not spec.uniform]
CERTAIN: dict[str, Callable[[], Tensor]] = {
    **{name: partial(LEARNED.sample, 3, seed=1, sampler=name, guidance=2.0) for name in OF_ANY_EXAMPLES},
    "particles": lambda: MEASURED.sample(3, levels=3),
    "posterior": lambda: MEASURED.sample(3, levels=3, sampler="heun"),
    "replacement": lambda: LEARNED.replacement(KNOWN, SHIFT).sample(3, levels=3),
    "exact trace": lambda: LEARNED.log_prob(UNITS.inverse(X), tolerance=0.1),
    "probes": lambda: LEARNED.log_prob(UNITS.inverse(X), probes=2, tolerance=0.1),
    "downsampled": lambda: downsampled(2)(IMAGE),
    "blurred": lambda: blurred(1.0)(IMAGE),
    "Empirical": lambda: Empirical(X)(X, 0.5) + Empirical(X).log_prob(X, 0.5)[:, None],
    **{name: partial(lambda toy: toy()(X, 0.5) + toy().log_prob(X, 0.5)[:, None], toy) for name, toy in TOYS.items()},
    "suggest_noise": lambda: ncsn.suggest_noise(X.cumsum(0)).noise.sigmas(),
}


@pytest.mark.parametrize("name", CERTAIN)
def test_no_tensor_is_made_on_the_default_device(name: str) -> None:
    """That is meta here, which cannot be mixed with others; what draws at random is in test_randomness."""
    expected = CERTAIN[name]()
    with torch.device("meta"):
        assert torch.equal(CERTAIN[name](), expected)


def test_a_recipe_builds_a_score() -> None:
    """Its preconditioning is in test_score."""
    start = {"data_mean": 0.3, "data_std": 1.7}
    score = RECIPE.build(start, autocast=torch.bfloat16)
    assert score.autocast == torch.bfloat16
    assert [float(score.data_mean), float(score.data_std)] == pytest.approx([*start.values()])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """The folder of a run of images with classes."""
    np.save(tmp_path / "pets.npy", np.arange(20 * 64, dtype=np.uint16).reshape(20, 8, 8, 1))
    recipe = replace(PICTURES, transform=ncsn.load_dataset(tmp_path / "pets.npy").transform)
    torch.manual_seed(0)
    images = recipe.build({"data_mean": 0.3, "data_std": 0.5})
    for weight in images.parameters():
        nn.init.normal_(weight, std=0.1)
    origin = ncsn.load("mnist", device="cpu").origin
    Run(score=images, recipe=recipe, settings={"minutes": 3.5}, origin=origin).save(tmp_path / "run")
    return tmp_path / "run"


def test_images_have_the_fastest_precision_and_points_their_own(pictures: Path) -> None:
    points = Run(score=model(), recipe=RECIPE)
    with Pretend("cuda"):
        assert ncsn.load(pictures, device="cuda").model.autocast == torch.bfloat16
        assert points.to("cuda").model.autocast is None
    assert points.to("cpu").model.autocast is None


# What stands somewhere in a config.json instead of what belongs there; each in another place.
NONSENSE: list[Any] = [None, True, -1, 2.5, 1e300, 10**12, 10**399, float("nan"), "x" * 5000, "ü\n"]
NONSENSE += [[], [1e9] * 11_000, [[[]]], {}]


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All paths to something in nested dictionaries and lists."""
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path, *(place for name, item in inside for place in places(item, (*path, name)))]


def refusal(folder: Path, content: Any, place: tuple[Any, ...], value: Any, *, seal: bool = True) -> str:
    """What reading a run ends in, with another value at a place of config.json, or with nothing if it is KeyError."""
    inside = result = copy.deepcopy(content)
    for name in place[:-1]:
        inside = inside[name]
    inside[place[-1]] = value
    if value is KeyError:
        del inside[place[-1]]
    digest = hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()
    (folder / "config.json").write_text(json.dumps(result | {"sha256": digest} if seal else result))
    return refused(lambda: ncsn.load(folder, device="cpu"), naming=str(folder))


def test_a_config_with_nonsense_anywhere_is_refused_or_means_it(pictures: Path) -> None:
    content = json.loads((pictures / "config.json").read_text())
    assert "was changed after" in refusal(pictures, content, ("recipe", "sampling", "eps"), 0.5, seal=False)
    del content["sha256"]
    for number, place in enumerate(places(content)[1:]):
        for value in (None, KeyError, NONSENSE[number % len(NONSENSE)]):
            assert refusal(pictures, content, place, value) or place[0] != "recipe" or value is not None, place
    (pictures / "config.json").unlink()
    assert "is not a run" in refused(lambda: ncsn.load(pictures))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("version", 7, "another version of ncsn; train it again .*version is 7"),
        ("recipe.arguments.depth", 3, "depth is 3"),
        ("recipe.arguments.channels", [2**20] * 2, "memory"),
        ("recipe.network", "Sequential", "Sequential is not in ncsn.networks"),
        ("recipe.preconditioning", "none", "preconditioning is 'none'"),
        ("recipe.transform.dtype", "object", "depth is 'object'"),
        ("recipe.transform.type", "columns", "columns"),
        ("recipe.shares.dogs", KeyError, "shares is"),
        ("recipe.shares", {"cats": 0.0, "dogs": 0.0}, "shares is"),
        ("data.digest", "02ab", "its digest"),  # the weights are another run's
    ],
)
def test_what_a_config_must_not_say_is_named(pictures: Path, place: str, value: Any, message: str) -> None:
    content = json.loads((pictures / "config.json").read_text())
    del content["sha256"]
    assert re.search(message, refusal(pictures, content, tuple(place.split(".")), value))


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("data_std", torch.tensor(0.0)),
        ("data_mean", torch.zeros(3, 8, 8)),
        ("network.head.bias", torch.zeros(5)),
        ("network.head.bias", None),
        ("more", torch.zeros(5)),
    ],
)
@pytest.mark.parametrize("by_us", [True, False])
def test_weights_of_another_network_are_refused(pictures: Path, name: str, tensor: Tensor | None, by_us: bool) -> None:
    path, run = pictures / "model.safetensors", ncsn.load(pictures, device="cpu")
    place, _, leaf = name.rpartition(".")
    module = run.model.get_submodule(place)
    if hasattr(module, leaf):
        delattr(module, leaf)
    if tensor is not None:
        module.register_buffer(leaf, tensor)
    run.save(pictures / "other")
    content = (pictures / "other" / "model.safetensors").read_bytes()
    tensors = load_file(pictures / "other" / "model.safetensors")
    assert (name in tensors) == (tensor is not None)
    path.write_bytes(content if by_us else save(tensors, metadata={"format": "pt"}))
    message = refused(lambda: ncsn.load(pictures))
    assert path.name in message
    assert "digest" not in message


PLAIN = Run.of(ncsn.GaussianMixture(torch.zeros(1, 2)), (2,), sigma_max=50.0, sigma_min=0.02)
PIXELS = Run.of(zero_score, (1, 2, 2), sigma_max=10.0, sigma_min=0.05)
IMPUTING, BLANK, NAN = conditional_run(torch.eye(2)), torch.tensor([[1.0, math.nan]]), math.nan


def first(x: Tensor) -> Tensor:
    return x[:, :1]


def measured(measure: Callable[[Tensor], Any] = first, y: Any = 2.0, noise_std: Any = 1.0) -> Any:
    return PLAIN.posterior(measure, y, noise_std=noise_std)


MISTAKES: list[tuple[Callable[[], object], str]] = [
    *((lambda n=n, b=b: standard().sample(n, batch_size=b), message)
      for n, b, message in ((0, 9, "n is 0"), (2, 0, "size is 0"), (4.0, 9, "n is 4.0"), (2, 2.5, "size is 2.5"))),
    (lambda: standard().sample(2, label=1), "trained without classes"),
    (lambda: standard().log_prob(torch.zeros(4, 3)), r"shape \(4, 3\)"),
    (lambda: standard().log_prob(SHIFT[None], sigma_min=0.0), "sigma_min is 0.0"),
    (lambda: standard().save("nowhere"), "the score is a GaussianScore; expected a ScoreModel"),
    (lambda: Run.of(GaussianScore(0.0, 1.0), (2,), sigma_max=1.0, sigma_min=-1.0), "sigma_min is -1.0"),
    (lambda: standard().data(), "does not say which data"),
    (lambda: standard().to("quantum"), "device is quantum"),
    (lambda: posterior(torch.zeros(4, 2)).sample(5), "4 measurements for 5 samples"),
    (lambda: labelled().steps(2, label=torch.tensor([0, 10])), "class is"),
    (lambda: labelled().steps(5, label="none", guidance=3.0), "guide is smaller"),
    *((lambda label=label: labelled().sample(1, label=label), "class is .*9")
      for label in ("eleven", "10", "-1", "9" * 400, "", -1, 10)),
    *((lambda label=label: labelled().steps(4, label=label), "4 integers")
      for label in ([1, 2], torch.tensor([1.5] * 4), np.zeros((4, 1), int))),
    # Whole numbers, seeds and shapes.
    (lambda: Run.of(GaussianScore(0.0, 1.0), (), sigma_max=10.0, sigma_min=0.05), "shape is"),
    (lambda: Run.of(GaussianScore(0.0, 1.0), (0,), sigma_max=10.0, sigma_min=0.05), "shape is"),
    *((lambda n=n: IMPUTING.impute(BLANK, n), f"n is {n}") for n in (0, 1.5)),
    (lambda: [*PLAIN.blocks(1.5)], "n is 1.5"),  # type: ignore[arg-type]
    (lambda: PLAIN.sample(True), "n is True"),
    *((lambda seed=seed: PLAIN.sample(1, seed=seed), "seed") for seed in (2**64, -1, 0.5)),
    (lambda: IMPUTING.impute(BLANK, 2, seed=-1), "seed"),
    (lambda: PLAIN.log_prob(torch.zeros(2, 2), batch_size=0), "batch_size"),
    (lambda: PLAIN.log_prob(torch.zeros(1, 2), probes=1.5), "probes"),  # type: ignore[arg-type]
    (lambda: PLAIN.log_prob(torch.zeros(1, 2), tolerance=1e9), "tolerance"),
    (lambda: PLAIN.sample(2, start=torch.zeros(2, 3)), "start"),
    (lambda: PLAIN.sample(5, start=torch.zeros(3, 2)), "start"),
    (lambda: PLAIN.sample(1, start=torch.ones(1, 2, dtype=torch.complex64)), "start"),
    (lambda: PLAIN.sample(1, guidance=2.0), "guidance"),
    (lambda: PLAIN.to("meta"), "meta"),
    (lambda: ncsn.load("mnist", device="cpu").save(""), "folder"),
    (lambda: replace(PLAIN, score=lambda x, sigma: -x[:, :1]).sample(3), "shape"),
    # Measurements.
    (lambda: measured(y="2"), "y"),
    (lambda: measured(y=None), "y"),
    (lambda: measured(y=torch.zeros(0, 1)), "y"),
    (lambda: measured(y=1e30), "y"),
    (lambda: measured(y=1 + 1j), "y"),
    *((lambda noise=noise: measured(noise_std=noise), "noise")
      for noise in (None, torch.ones(3), torch.ones(4, 1), torch.tensor(1 + 1j), 1e-8)),
    *((lambda noise=noise: measured(lambda x: x, [1.0, 2.0], noise), "noise")
      for noise in (torch.ones(3), torch.tensor([1.0, 1e-8]))),
    (lambda: measured(lambda x: x.detach().numpy()), "ndarray"),
    (lambda: measured(lambda x: x > 0), "bool"),
    (lambda: measured(lambda x: x[:1]), "shape"),
    (lambda: measured(lambda x: x.detach()[:, :1]), "measure"),
    (lambda: measured(lambda x: torch.stack([x[:, 0], x[:, 1].detach()], 1), [1, 2]), "measure"),
    (lambda: measured(lambda x: torch.from_numpy(x.detach().numpy()[:, :1])), "measure"),
    # Data and distributions.
    (lambda: next(batches(torch.zeros(0, 2), 3, generator=torch.Generator())), r"\(0, 2\)"),
    (lambda: Job(precision="fp8"), "fp8"),  # type: ignore[arg-type]
    (lambda: ncsn.surprise(zero_score, torch.tensor(1.0), sigma_max=10.0, sigma_min=0.1), "x is"),
    (lambda: ncsn.evaluation.evaluate(torch.zeros(3, 1, 2, 2)), "data"),
    (lambda: ncsn.fit(torch.randn(20, 2), channels=(8, 8), steps=1), "channels"),
    (lambda: IMPUTING.impute(torch.ones(1, 2, dtype=torch.complex64)), "complex"),
    (lambda: PLAIN.log_prob(torch.ones(1, 2, dtype=torch.complex64)), "complex"),
    (lambda: PIXELS.log_prob(torch.ones(1, 1, 2, 2, dtype=torch.complex64)), "complex"),
    (lambda: ncsn.load("mnist", device="cpu").log_prob(84 * torch.ones(1, 1, 28, 28)), "84"),
    (lambda: ncsn.fit({"a": 1}, steps=1), "a dict of columns"),
    (lambda: ncsn.fit(None, steps=1), "NoneType"),
    (lambda: ncsn.fit(torch.randn(20, 2), steps=True), "steps"),
    *((lambda least=least: ncsn.fit(torch.randn(20, 2), minutes=least), "minutes") for least in (True, np.True_)),
    (lambda: ncsn.GaussianMixture(torch.zeros(1, 2), std=NAN), "nan"),
    (lambda: ncsn.GaussianMixture(torch.full((1, 2), NAN)), "means"),
    (lambda: Empirical(torch.full((3, 2), NAN)), "data"),
    *((lambda sigma=sigma: ncsn.tweedie(zero_score, torch.ones(2, 2), sigma), "sigma")
      for sigma in (NAN, torch.tensor([1.0, NAN]), torch.tensor(0.0))),
    *((lambda sigma=sigma: ncsn.langevin(zero_score, torch.ones(1, 2), sigma, step_size=0.1, steps=1), "sigma")
      for sigma in (NAN, torch.tensor(NAN))),
    (lambda: ncsn.log_prob(zero_score, torch.tensor(1.0), sigma_max=10.0, sigma_min=0.1), "x"),
    *((lambda ln=ln: LogNormal(*ln, 10.0, 0.1), "10") for ln in ((10**30, 1.2), (0.0, 10**30))),  # type: ignore[call-arg]
    (lambda: LogUniform(10**30, 0.1), "sigma"),
    (lambda: ncsn.Geometric(True, 0.1, 3), "True"),
    (lambda: ncsn.Karras(10.0, 0.1, levels=True), "True"),
    (lambda: MLP("1"), "'1'"),  # type: ignore[arg-type]
    (lambda: MLP(1, layers="1"), "'1'"),  # type: ignore[arg-type]
    (replace(RECIPE, network="ResidualMLP", arguments={"dimensions": 2, "width": True}).build, "True"),
]  # fmt: skip


test_what_python_users_get_wrong_is_named_in_a_line = refuses(MISTAKES)


def test_arrays_are_as_good_as_tensors() -> None:
    points, start = np.random.default_rng(0).normal(size=(50, 2)), np.zeros((2, 2), np.float32)
    with unchecked():
        assert PLAIN.sample(2, start=start, levels=np.int64(3)).shape == (2, 2)  # type: ignore[arg-type]
        assert ncsn.GaussianMixture(points[:1]).sample(3).shape == (3, 2)  # type: ignore[arg-type]
        assert Empirical(points).mean.shape == (2,)  # type: ignore[arg-type]
        assert ncsn.suggest_noise(points) == ncsn.suggest_noise(torch.from_numpy(points))  # type: ignore[arg-type]
        grid = ncsn.plots.image_grid(np.zeros((4, 1, 8, 8), np.float32))  # type: ignore[arg-type]
        assert ncsn.fit(points, steps=1, seed=np.int64(3), quiet=True).settings["seed"] == 3
    assert grid.size == ncsn.plots.image_grid(torch.zeros(4, 1, 8, 8)).size


def test_bytes_and_reals_of_an_image_have_one_density() -> None:
    run, digits = ncsn.load("mnist", device="cpu"), ncsn.load_dataset("mnist").test[:1]
    assert torch.equal(run.held_out()[:1], digits)
    of_bytes, of_reals = (run.log_prob(x, tolerance=0.05, probes=1) for x in (digits, (digits + 0.5) / 256))
    assert of_bytes == pytest.approx(of_reals)
    with pytest.raises(ValueError, match="cannot be 200"):
        run.replacement(torch.ones(1, 28, 28, dtype=torch.bool), np.full((1, 28, 28), 200))


def test_a_density_uses_its_probes_and_leaves_the_model_as_it_was() -> None:
    model = ScoreModel(ncsn.MLP(20, 8, 1), autocast=torch.bfloat16).requires_grad_(False)
    run = Run.of(model, (20,), sigma_max=5.0, sigma_min=0.5)
    errors = [
        float(part.standard_error[0])
        for probes in (1, 3)
        for part in run.log_densities(torch.zeros(1, 20), probes=probes, tolerance=0.1)
    ]
    assert math.isnan(errors[0]), "a single probe has no spread"
    assert math.isfinite(errors[1])
    assert model.autocast == torch.bfloat16
