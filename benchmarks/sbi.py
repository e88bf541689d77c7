"""Posteriors of simulators: ncsn's conditional draws compared with the estimators of PyPI's sbi.

The tasks come from Lueckmann et al. (2021), "Benchmarking Simulation-Based Inference" (arXiv:2101.04653, appendix T).
Five of them have an exact posterior, from which the true draws come; their observations are drawn with seeds of our
own.  With ``--sbibm``, all eight are judged by the paper's own observations and reference draws, so that c2st can be
compared with the paper's (with ``--draws 10000 --observations 10``).

Every way learns from the same simulations, ``--rows`` of them, and draws ``--draws`` parameters for each observation:

- ours: ``ncsn.fit`` on the table of parameters and data, with the parameters ``hidden``, then ``run.impute`` with
  them blank;
- npe, npse: neural posterior estimation and neural posterior score estimation, with sbi's defaults (sbi 0.27).

Both reject draws outside the prior, so "outside" should be 0 for either.

The columns:

- c2st: how often a classifier tells draws from as many of the exact posterior (the paper's network, five folds): 0.5 is
  ideal, 1 is the worst;
- outside: the share of draws outside the prior;
- train, draw: seconds of processor time.  A way trains once for a task.

The line "floor" is the c2st of a second set of exact draws for the first observation, which differs from 0.5 by chance
only; tasks without an exact posterior have none.  The last line of a way is the verdict of
``ncsn.evaluation.calibration`` on 39 draws for each of ``--trials`` new simulations.

`python benchmarks/sbi.py --minutes 1.5` runs all that is installed (`pip install sbi`); `--tasks slcp --ways ours npe`
chooses; `--equal` lets sbi's way train first, and gives ours as many steps as take the same processor time;
`--steps 2000` trains ours by steps, so that a busy machine makes no difference.  `--seed` simulates and trains
differently and leaves the observations as they are.  `OMP_NUM_THREADS=1` makes processor time comparable.

`--sbibm sbibm-1.1.0-py2.py3-none-any.whl` is the file that `pip download --no-deps sbibm==1.1.0` saves.  Tasks
without an exact posterior, `neuron`, `sir` and `predators`, need it.  `--trials 0` leaves the verdict out.
"""

import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import numpy as np
import pandas as pd
import torch
import tyro
from jaxtyping import Float64
from torch import Tensor
from torch.distributions import Distribution, Independent, LogNormal, MultivariateNormal, Normal, Uniform
from torch.special import ndtr, ndtri

import ncsn
from ncsn.evaluation import calibration
from ncsn.tables.run import TableRun

# A script's folder comes first on the path, where `sbi` would be this file instead of the package.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

OBSERVATION_SEED, REFERENCE_SEED, FLOOR_SEED = 1000, 2000, 3000  # plus the observation's number
TRIALS_SEED, DRAWS_OF_A_TRIAL = 4000, 39
PROPOSALS = 2**17  # per round of rejection
Theta = Float64[Tensor, "n p"]
Data = Float64[Tensor, "n q"]
Observation = Float64[Tensor, "q"]
Draw = Callable[[Observation, int], Theta]


class Simulator(NamedTuple):
    """A prior, a simulator and, where there is one, the exact answer.

    ``sbibm``: the name of the task in sbibm.
    ``simulate(theta, generator)``: data, one row for each row of parameters.
    ``posterior(x, n, generator)``: exact, independent draws.
    """

    sbibm: str

    prior: Distribution
    simulate: Callable[[Theta, torch.Generator], Data]
    posterior: Callable[[Observation, int, torch.Generator], Theta] | None = None


def seeded(seed: int) -> torch.Generator:
    """A generator on the processor."""
    return torch.Generator().manual_seed(seed)


def normals(*shape: int, generator: torch.Generator) -> Tensor:
    """Standard normal numbers, in double precision."""
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def uniforms(*shape: int, generator: torch.Generator) -> Tensor:
    """Uniform numbers in [0, 1), in double precision."""
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def box(dim: int, bound: float) -> Distribution:
    """The uniform distribution on [−bound, bound]^dim; points outside have density zero."""
    return Independent(Uniform(-torch.full((dim,), bound), torch.full((dim,), bound), validate_args=False), 1)


def draw_prior(simulator: Simulator, n: int, generator: torch.Generator) -> Theta:
    """``n`` draws; torch's ``sample`` takes no generator."""
    if isinstance(simulator.prior, MultivariateNormal):
        z = normals(n, *simulator.prior.event_shape, generator=generator)
        return simulator.prior.loc + z @ simulator.prior.scale_tril.T
    base = simulator.prior.base_dist  # type: ignore[attr-defined]
    draws: Tensor = base.icdf(uniforms(n, *base.batch_shape, generator=generator))
    return draws


def draw_until(n: int, propose: Callable[[], Theta]) -> Theta:
    """The first ``n`` of the rows that ``propose`` lets through, however often it has to be called."""
    kept = [propose()]
    while sum(map(len, kept)) < n:
        kept.append(propose())
    return torch.cat(kept)[:n]


def tails(x: Observation, std: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """The distribution function of N(|x|, std²) at both ends of [−bound, bound].

    |x| instead of x: the end that is closer is then in the lower tail, where floats are precise.
    """
    return ndtr((-bound - x.abs()) / std), ndtr((bound - x.abs()) / std)


def truncated(x: Observation, std: Float64[Tensor, "n 1"], bound: float, generator: torch.Generator) -> Theta:
    """Draws of N(x, std² I) in [−bound, bound]^p, by the inverse distribution function."""
    low, high = tails(x, std, bound)
    z = ndtri(low + (high - low) * uniforms(len(std), len(x), generator=generator))
    draws: Tensor = torch.where(x < 0, -1.0, 1.0) * (x.abs() + std * z).clamp(-bound, bound)
    return draws


NOISE = math.sqrt(0.1)  # the standard deviation of the prior and of the noise, T.1 and T.2


def simulate_linear(theta: Theta, generator: torch.Generator) -> Data:
    """N(θ, I/10), T.1 and T.2."""
    return theta + NOISE * normals(*theta.shape, generator=generator)


def linear_posterior(x: Observation, n: int, generator: torch.Generator) -> Theta:
    """N(x/2, I/20): prior and noise have the same variance, 0.1."""
    return x / 2 + NOISE * math.sqrt(0.5) * normals(n, len(x), generator=generator)


def uniform_posterior(x: Observation, n: int, generator: torch.Generator) -> Theta:
    """N(x, I/10) in the prior's box."""
    return truncated(x, torch.full((n, 1), NOISE, dtype=torch.float64), 1.0, generator)


STDS = torch.tensor([[1.0], [0.1]], dtype=torch.float64)  # of the two components with the same mean, T.7


def simulate_mixture(theta: Theta, generator: torch.Generator) -> Data:
    """N(θ, I) or N(θ, I/100), equally likely, T.7."""
    which = torch.randint(2, (len(theta),), generator=generator)
    return theta + STDS[which] * normals(*theta.shape, generator=generator)


def mixture_posterior(x: Observation, n: int, generator: torch.Generator) -> Theta:
    """Two truncated normals, each with its mass in the box as its share."""
    low, high = tails(x, STDS, 10.0)
    which = torch.multinomial((high - low).prod(1), n, replacement=True, generator=generator)
    return truncated(x, STDS[which], 10.0, generator)


def draw_crescent(n: int, generator: torch.Generator) -> Float64[Tensor, "n 2"]:
    """Noise of two moons: half a ring around (1/4, 0), T.8."""
    angle = math.pi * (uniforms(n, generator=generator) - 0.5)
    radius = 0.1 + 0.01 * normals(n, generator=generator)
    return torch.stack([radius * angle.cos() + 0.25, radius * angle.sin()], 1)


def moons_shift(theta: Theta) -> Float64[Tensor, "n 2"]:
    """What parameters add to the noise: it knows θ1 + θ2 up to its sign."""
    return torch.stack([-(theta[:, 0] + theta[:, 1]).abs(), theta[:, 1] - theta[:, 0]], 1) / math.sqrt(2)


def simulate_moons(theta: Theta, generator: torch.Generator) -> Data:
    """Noise and shift, T.8."""
    return draw_crescent(len(theta), generator) + moons_shift(theta)


def moons_posterior(x: Observation, n: int, generator: torch.Generator) -> Theta:
    """Noise determines |θ1 + θ2| and θ2 − θ1; both signs of the sum are equally likely if they are in the prior's box.

    The map from noise to parameters is a rotation for each sign, so densities don't change.
    """

    def propose() -> Theta:
        shift = x - draw_crescent(PROPOSALS, generator)
        total = shift[:, 0] * torch.where(uniforms(PROPOSALS, generator=generator) < 0.5, -1.0, 1.0)
        theta = torch.stack([total - shift[:, 1], total + shift[:, 1]], 1) / math.sqrt(2)
        return theta[(shift[:, 0] <= 0) & (theta.abs() <= 1).all(1)]

    return draw_until(n, propose)


def slcp_scales(theta: Theta) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both standard deviations, the correlation ρ, and 1 − ρ² without cancellation (T.3)."""
    return theta[:, 2].square(), theta[:, 3].square(), theta[:, 4].tanh(), theta[:, 4].cosh().pow(-2)


def simulate_slcp(theta: Theta, generator: torch.Generator) -> Data:
    """Four points in the plane, (n, 8)."""
    first, second, rho, rest = slcp_scales(theta)
    z = normals(4, 2, len(theta), generator=generator)
    points = torch.stack([first * z[:, 0], second * (rho * z[:, 0] + rest.sqrt() * z[:, 1])], -1) + theta[:, :2]
    return points.movedim(0, 1).flatten(1)


def slcp_posterior(x: Observation, n: int, generator: torch.Generator) -> Theta:
    """Exact rejection: first of the covariance S, with the mean integrated out, then of the mean.

    Without the box, the mean given S is N(x̄, S/4), and what remains of the likelihood is |S|^(−3/2) exp(−½ tr S⁻¹A),
    where A is the scatter of the four points around x̄.  It is largest at S = A/3, which gives the acceptance rate.
    """
    centre = x.view(4, 2).mean(0)
    scatter = (x.view(4, 2) - centre).T @ (x.view(4, 2) - centre)
    greatest = -1.5 * torch.logdet(scatter / 3) - 3

    def propose() -> Theta:
        theta = draw_prior(SIMULATORS["slcp"], PROPOSALS, generator)
        first, second, rho, rest = slcp_scales(theta)
        cross = 2 * rho * scatter[0, 1] / (first * second)
        trace = (scatter[0, 0] / first.square() - cross + scatter[1, 1] / second.square()) / rest
        log_ratio = -3 * (first * second * rest.sqrt()).log() - trace / 2 - greatest
        theta = theta[uniforms(PROPOSALS, generator=generator).log() < log_ratio]
        first, second, rho, rest = slcp_scales(theta)
        z = normals(2, len(theta), generator=generator) / 2
        mean = centre + torch.stack([first * z[0], second * (rho * z[0] + rest.sqrt() * z[1])], 1)
        return torch.cat([mean, theta[:, 2:]], 1)[(mean.abs() <= 3).all(1)]

    return draw_until(n, propose)


STIMULUS = torch.from_numpy(np.random.RandomState(42).standard_normal(100))  # of sbibm
# A neuron's input at each of 100 times: a constant, and the stimulus up to eight steps before.
INPUTS = torch.stack([torch.ones(100).double(), *(torch.cat([torch.zeros(k), STIMULUS])[:100] for k in range(9))], 1)


def neuron_prior() -> Distribution:
    """An offset of variance 2 and a filter of nine weights, whose second differences are small, T.5."""
    differences = torch.eye(9) - torch.diag(torch.ones(8), -1)
    smoothness = differences @ differences + torch.diag(torch.arange(9) / 9).sqrt()
    precision = torch.zeros(10, 10).double()
    precision[0, 0] = 0.5
    precision[1:, 1:] = smoothness.T @ smoothness
    return MultivariateNormal(torch.zeros(10).double(), precision_matrix=precision, validate_args=False)


def simulate_neuron(theta: Theta, generator: torch.Generator) -> Data:
    """The number of spikes, and the mean stimulus before them times that number, T.5."""
    chances = (theta @ INPUTS.T).sigmoid()
    spikes = uniforms(*chances.shape, generator=generator) < chances
    return spikes.double() @ INPUTS


def solve_ode(slope: Callable[[Tensor], Tensor], start: Tensor, step: float, steps: int, every: int) -> Tensor:
    """Every ``every``-th state of ``steps`` classical Runge-Kutta steps, (times, ...), from the start on."""
    states, state = [start], start
    for i in range(1, steps + 1):
        first = slope(state)
        second = slope(state + step / 2 * first)
        third = slope(state + step / 2 * second)
        fourth = slope(state + step * third)
        state = state + step / 6 * (first + 2 * second + 2 * third + fourth)
        if i % every == 0:
            states.append(state)
    return torch.stack(states)


def infected(theta: Theta) -> Data:
    """The share of people who are ill after 0, 17, …, 153 days, T.9."""
    contact, recovery = theta.unbind(1)

    def slope(state: Tensor) -> Tensor:
        susceptible, ill = state
        infections = contact * susceptible * ill
        return torch.stack([-infections, infections - recovery * ill])

    start = torch.tensor([[1 - 1e-6], [1e-6]]).double().expand(2, len(theta))
    return solve_ode(slope, start, step=0.1, steps=1530, every=170)[:, 1].T


def simulate_sir(theta: Theta, generator: torch.Generator) -> Data:
    """How many of 1,000 people are ill, T.9."""
    shares = infected(theta).clamp(0, 1)
    return torch.binomial(torch.full_like(shares, 1000), shares, generator=generator)


def populations(theta: Theta) -> Data:
    """Prey at the times 0, 2.1, …, 18.9, then predators, T.10."""
    birth, predation, death, growth = theta.unbind(1)

    def slope(log_state: Tensor) -> Tensor:
        prey, predators = log_state.exp()
        return torch.stack([birth - predation * predators, growth * prey - death])

    start = torch.tensor([[30.0], [1.0]]).double().log().expand(2, len(theta))
    return solve_ode(slope, start, step=0.005, steps=3780, every=420).exp().permute(2, 1, 0).flatten(1)


def simulate_predators(theta: Theta, generator: torch.Generator) -> Data:
    """Populations with errors of about a tenth, T.10."""
    sizes = populations(theta).clamp(1e-10, 1e4)
    return sizes * (0.1 * normals(*sizes.shape, generator=generator)).exp()


def log_normal(medians: list[float], deviations: list[float]) -> Distribution:
    """Independent parameters, whose logarithms have these standard deviations."""
    return Independent(LogNormal(torch.tensor(medians).log(), torch.tensor(deviations), validate_args=False), 1)


GAUSSIAN = Independent(Normal(torch.zeros(10), torch.full((10,), NOISE)), 1)
RATES = [math.exp(-0.125), math.exp(-3.0)] * 2
SIMULATORS = {
    "moons": Simulator("two_moons", box(2, 1.0), simulate_moons, moons_posterior),
    "mixture": Simulator("gaussian_mixture", box(2, 10.0), simulate_mixture, mixture_posterior),
    "slcp": Simulator("slcp", box(5, 3.0), simulate_slcp, slcp_posterior),
    "linear": Simulator("gaussian_linear", GAUSSIAN, simulate_linear, linear_posterior),
    "uniform": Simulator("gaussian_linear_uniform", box(10, 1.0), simulate_linear, uniform_posterior),
    "neuron": Simulator("bernoulli_glm", neuron_prior(), simulate_neuron),
    "sir": Simulator("sir", log_normal([0.4, 0.125], [0.5, 0.2]), simulate_sir),
    "predators": Simulator("lotka_volterra", log_normal(RATES, [0.5] * 4), simulate_predators),
}
EXACT = tuple(name for name, simulator in SIMULATORS.items() if simulator.posterior)


class Task(NamedTuple):
    """What a way is given: simulations to learn from, the prior, and a budget for ours, with the seed."""

    theta: Theta
    x: Data
    prior: Distribution
    budget: dict[str, Any]


class NCSN:
    """ncsn with the methods of sbi's trainers and posteriors.

    ``budget``: the arguments of ``ncsn.fit``.
    """

    def __init__(self, prior: Distribution, **budget: Any) -> None:
        self.prior, self.budget = prior, {"seed": 0} | budget

    def append_simulations(self, theta: Tensor, x: Tensor) -> "NCSN":
        self.p, self.table = theta.shape[1], torch.cat([theta, x], 1)
        return self

    def train(self) -> "NCSN":
        run = ncsn.fit(self.table, quiet=True, hidden=tuple(map(str, range(self.p))), **self.budget)
        assert isinstance(run, TableRun)
        self.run = ncsn.with_prior(run, lambda rows: self.prior.log_prob(rows[:, : self.p].to(self.table)))
        # The same noise for every observation would make ranks depend on each other.
        self.generator = seeded(self.budget["seed"])
        return self

    def build_posterior(self) -> "NCSN":
        return self

    def sample(self, shape: tuple[int], x: Tensor, **_: object) -> Tensor:
        row = torch.cat([x.new_full((self.p,), torch.nan), x.flatten()])
        return self.run.impute(row[None], shape[0], seed=self.generator).draws[:, 0, : self.p].to(x)


def ours(task: Task) -> Draw:
    """A score network of parameters and data together, and draws of the parameters given the data."""
    posterior = NCSN(task.prior, **task.budget).append_simulations(task.theta, task.x).train().build_posterior()
    return lambda x, n: posterior.sample((n,), x)


def estimator(name: str) -> Callable[[Task], Draw]:
    """The way of sbi's class of this name, with its defaults."""

    def way(task: Task) -> Draw:
        torch.manual_seed(task.budget["seed"])  # sbi draws from the global generator
        inference, home = import_module("sbi.inference"), Path.cwd()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)  # sbi logs to the working directory, and prints a line without an end
            try:
                with redirect_stdout(StringIO()):
                    trainer = getattr(inference, name)(task.prior, show_progress_bars=False)
                    trainer.append_simulations(task.theta.float(), task.x.float()).train()
            finally:
                os.chdir(home)
        posterior = trainer.build_posterior()
        return lambda x, n: posterior.sample((n,), x=x.float(), show_progress_bars=False).double()

    return way


WAYS: dict[str, Callable[[Task], Draw]] = {"ours": ours}
WAYS |= {"npe": estimator("NPE"), "npse": estimator("NPSE")} if find_spec("sbi") else {}


def c2st(reference: Theta, samples: Theta, seed: int = 0) -> float:
    """The accuracy, in five folds, of a network that tells samples from the reference.

    Two hidden layers of ten units a dimension, as in Lueckmann et al. (2021); units are those of the reference.
    """
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.neural_network import MLPClassifier

    mean, std, width = reference.mean(0), reference.std(0), 10 * reference.shape[1]
    x = ((torch.cat([reference, samples]) - mean) / std).numpy()
    y = torch.cat([torch.zeros(len(reference)), torch.ones(len(samples))]).numpy()
    network = MLPClassifier((width, width), max_iter=10_000, random_state=seed)  # ReLU and Adam are the defaults
    folds = KFold(5, shuffle=True, random_state=seed)
    return float(cross_val_score(network, x, y, cv=folds, scoring="accuracy").mean())


def observe(simulator: Simulator, number: int) -> Observation:
    """Observation ``number``, from a seed of its own: parameters of the prior, then data."""
    generator = seeded(OBSERVATION_SEED + number)
    return simulator.simulate(draw_prior(simulator, 1, generator), generator)[0]


def simulations(simulator: Simulator, rows: int, budget: dict[str, Any]) -> Task:
    """Parameters of the prior and their data, from the budget's seed."""
    generator = seeded(budget["seed"])
    theta = draw_prior(simulator, rows, generator)
    return Task(theta, simulator.simulate(theta, generator), simulator.prior, budget)


def verdict(simulator: Simulator, draw: Draw, trials: int) -> str:
    """Whether draws of the parameters of new simulations are calibrated."""
    generator = seeded(TRIALS_SEED)
    theta = draw_prior(simulator, trials, generator)
    x = simulator.simulate(theta, generator)
    return calibration(theta, torch.stack([draw(each, DRAWS_OF_A_TRIAL) for each in x], 1)).verdict


def steps_within(seconds: float, task: Task) -> int:
    """How many steps of ours take this much processor time, estimated from two short trainings."""
    spent, counts = list[float](), (20, 120)
    for count in counts:
        began = time.process_time()
        ours(task._replace(budget={"steps": count, "seed": 0}))
        spent.append(time.process_time() - began)
    each = (spent[1] - spent[0]) / (counts[1] - counts[0])
    return max(counts[0], counts[0] + round((seconds - spent[0]) / each))


def trained(chosen: "Comparison", task: Task) -> Iterator[tuple[str, Draw, float]]:
    """Each way with its seconds of training; ours comes last if it has as many as the one before."""
    seconds = 0.0
    for way in sorted(chosen.ways, key=lambda way: chosen.equal and way == "ours"):
        if chosen.equal and way == "ours" and seconds:
            task = task._replace(budget={"steps": steps_within(seconds, task), "seed": chosen.seed})
        began = time.process_time()
        draw = WAYS[way](task)
        seconds = time.process_time() - began
        yield way, draw, seconds


class Question(NamedTuple):
    """An observation, and draws of its posterior, exact or of sbibm."""

    x: Observation
    reference: Theta


def own_questions(simulator: Simulator, chosen: "Comparison") -> list[Question]:
    """Observations with seeds of our own, and exact draws."""
    assert simulator.posterior, "of a task that has an exact posterior"
    seen = [observe(simulator, k) for k in range(chosen.observations)]
    return [Question(x, simulator.posterior(x, chosen.draws, seeded(REFERENCE_SEED + k))) for k, x in enumerate(seen)]


def sbibm_questions(simulator: Simulator, chosen: "Comparison", wheel: Path) -> list[Question]:
    """Observations and reference draws of sbibm."""
    questions = []
    with ZipFile(wheel) as archive:
        for k in range(1, chosen.observations + 1):
            folder = f"sbibm/tasks/{simulator.sbibm}/files/num_observation_{k}"
            with archive.open(f"{folder}/observation.csv") as file:
                x = pd.read_csv(file).to_numpy(float)[0]
            with archive.open(f"{folder}/reference_posterior_samples.csv.bz2") as file:
                draws = pd.read_csv(file, compression="bz2", nrows=chosen.draws).to_numpy(float)
            questions.append(Question(torch.from_numpy(x), torch.from_numpy(draws)))
    return questions


def compare(name: str, chosen: "Comparison") -> None:
    """Print the floor of a task, then the lines of each way."""
    simulator = SIMULATORS[name]
    wheel = chosen.sbibm
    questions = sbibm_questions(simulator, chosen, wheel) if wheel else own_questions(simulator, chosen)
    if simulator.posterior:
        x, reference = questions[0]
        floor = c2st(reference, simulator.posterior(x, len(reference), seeded(FLOOR_SEED)))
        print(f"{name:10}{'floor':8}{'1':>6}{floor:9.3f}", flush=True)
    for way, draw, training in trained(chosen, simulations(simulator, chosen.rows, chosen.budget)):
        lines = []
        for k, (x, reference) in enumerate(questions, 1):
            began = time.process_time()
            draws = draw(x, len(reference))
            seconds = time.process_time() - began
            outside = simulator.prior.log_prob(draws).isinf().double().mean().item()
            lines.append([c2st(reference, draws), outside, training, seconds])
            print_line(name, way, str(k), lines[-1])
        print_line(name, way, "mean", torch.tensor(lines).mean(0).tolist())
        if chosen.trials:
            print(f"{name:10}{way:8}{verdict(simulator, draw, chosen.trials)}", flush=True)


def print_line(task: str, way: str, which: str, numbers: list[float]) -> None:
    """One aligned line."""
    judged, outside, training, seconds = numbers
    print(f"{task:10}{way:8}{which:>6}{judged:9.3f}{outside:9.3f}{training:9.1f}{seconds:9.1f}", flush=True)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Compare posteriors of simulators, and print a line for each task, way and observation."""

    minutes: float = 1.5
    steps: int | None = None
    seed: int = 0
    rows: int = 10_000
    draws: int = 2000
    observations: int = 3
    trials: int = 300
    equal: bool = False
    sbibm: Path | None = None
    tasks: tuple[str, ...] = EXACT
    ways: tuple[str, ...] = tuple(WAYS)

    @property
    def budget(self) -> dict[str, Any]:
        """The arguments of ``ncsn.fit``."""
        return ({"steps": self.steps} if self.steps else {"minutes": self.minutes}) | {"seed": self.seed}


def main(chosen: Comparison) -> None:
    """Compare."""
    names = "".join(f"{name:>9}" for name in ("c2st", "outside", "train", "draw"))
    print(f"{f'seed {chosen.seed}':10}{'way':8}{'x':>6}{names}")
    for name in chosen.tasks:
        compare(name, chosen)


if __name__ == "__main__":
    main(tyro.cli(Comparison))
