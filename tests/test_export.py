"""ONNX files of runs: onnxruntime computes from them what PyTorch computes, and what is off is not written."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from helpers import GaussianScore, unchecked
from torch import Tensor, nn

import ncsn
from ncsn.cli import main as cli
from ncsn.data.pixels import quantize
from ncsn.exporting import Card, graph, read, writing
from ncsn.model import Plain, Preconditioning, Scaled, ScoreModel
from ncsn.networks import MLP, NCSN, NCSNv2, UNet
from ncsn.recipe import Argument, Recipe, Units
from ncsn.run import Run
from ncsn.samplers import Sampling
from ncsn.score import Sigma, expand

SAMPLING = Sampling(
    sigma_max=10.0, sigma_min=0.01, sampler="dpmpp-sde", levels=6, steps=1, eps=5e-5, guidance=2.0, guide="smaller"
)
SHARES = {"cats": 0.5, "dogs": 0.25, "3": 0.25}
Output = Callable[..., Tensor]


def filled(model: ScoreModel) -> ScoreModel:
    """With weights that leave nothing out, and that float16 has not."""
    generator = torch.Generator().manual_seed(1)
    for weight in model.network.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    return model.requires_grad_(False).eval()


def small(channels: int = 3, size: tuple[int, int] = (10, 7), classes: int = 3, **given: Any) -> Run:
    """A run of small images: not square, padded inside, and told classes."""
    network = UNet(channels, (8,), 1, 8, classes)
    recipe = Recipe(
        network="UNet",
        arguments={"image_channels": channels, "channels": (8,), "blocks": 1, "features": 8, "classes": classes},
        shape=(channels, *size),
        sampling=SAMPLING,
        shares=SHARES if classes else {},
    )
    return Run(score=filled(ScoreModel(network, 0.4, 0.3)), recipe=recipe, **given)


def opened(path: Path) -> Output:
    """The file as a function of tensors, as a user would call it."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    assert [one.name for one in session.get_outputs()] == ["score"]

    def score(*given: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {n: g.numpy() for n, g in zip(names, given, strict=True)})[0])

    return score


def shipped_run() -> Run:
    """The model in the package, in float32 on every machine."""
    run = ncsn.load("mnist", device="cpu")
    run.model.autocast = None
    return run


def noised(n: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Noised data, and its noise levels, from 0.01 to 10."""
    generator = torch.Generator().manual_seed(5)
    sigma = torch.logspace(-2, 1, n) if n > 1 else torch.tensor([0.3])
    x = torch.rand(n, *shape, generator=generator)
    return x + expand(sigma, x) * torch.randn(x.shape, generator=generator), sigma


def off(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest number of the same example."""
    assert a.shape == b.shape
    largest = b.abs().flatten(1).amax(1)
    assert bool((largest > 0).all())
    return float(((a - b).abs().flatten(1).amax(1) / largest).max())


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in the package, as the command exports it."""
    path = tmp_path_factory.mktemp("shipped") / "model.onnx"
    cli.main(["export", "mnist", str(path)])
    return path


def test_the_model_in_the_package_is_small_and_computes_the_same(shipped: Path) -> None:
    run, score = shipped_run(), opened(shipped)
    assert shipped.stat().st_size < 3.6e6
    for n in (1, 2, 11):
        (x, sigma), label = noised(n, (1, 28, 28)), torch.arange(n) % 11 - 1
        assert off(score(x, sigma, label), run.model(x, sigma, label)) < 1e-5
    assert [path.name for path in shipped.parent.iterdir()] == ["model.onnx"]


def test_from_the_same_noise_the_file_draws_the_same_digits(shipped: Path) -> None:
    run, card, part = shipped_run(), read(shipped), opened(shipped)
    drawn = quantize(run.sample(8, seed=3))

    def score(x: Tensor, sigma: Sigma, label: Tensor | None = None) -> Tensor:
        return part(
            x, expand(sigma, x).expand(len(x), 1, 1, 1).flatten(), torch.full((len(x),), -1) if label is None else label
        )

    exported = Run(score=score, recipe=card.recipe)
    apart = (quantize(exported.sample(8, seed=3, levels=card.levels)).int() - drawn.int()).abs()
    assert float((apart <= 2).float().mean()) >= 0.999


def test_the_files_say_what_sampling_needs(tmp_path: Path) -> None:
    """Of a run without classes, which has a smaller network for a guide."""
    guide = filled(ScoreModel(UNet(3, (8, 4), 1, 8), 0.4, 0.3))
    run = small(classes=0, guide=guide)
    made = ncsn.export(run, tmp_path / "model.onnx", precision="fp32")
    assert [one.path.name for one in made] == ["model.onnx", "model.guide.onnx"]
    for one, model in zip(made, (run.model, guide), strict=True):
        (x, sigma) = noised(3, run.recipe.shape)
        assert off(opened(one.path)(x, sigma), model(x, sigma)) < 1e-5
    card, other = (read(one.path) for one in made)
    assert other == replace(card, part="guide")
    assert (card.part, card.precision, card.run, card.recipe) == ("score", "fp32", run.digest, run.recipe)
    assert card.levels == tuple(run.recipe.sampling.ladder().tolist())
    assert (card.recipe.sampling.guidance, card.recipe.sampling.guided_between) == (2.0, (0.2, 1.5))


def test_the_file_says_nothing_of_this_machine(shipped: Path) -> None:
    content = shipped.read_bytes()
    for word in (str(Path(ncsn.__file__).parent), "site-packages", "stack_trace", "forward", ".py"):
        assert word.encode() not in content


SLOW = pytest.mark.slow
NETWORKS = [
    (UNet(4, (8, 8), 1, 8), None, (4, 12, 9)),
    pytest.param(NCSN(3, 4, sigmas=(10.0, 1.0, 0.1, 0.01)), Plain(), (3, 8, 12), marks=SLOW),
    pytest.param(NCSN(1, 4, features=8, rescale=False), None, (1, 8, 8), marks=SLOW),
    pytest.param(NCSNv2(3, 4), Scaled(), (3, 8, 8), marks=SLOW),
]


@pytest.mark.parametrize(("network", "way", "shape"), NETWORKS)
def test_every_network_is_the_same_in_onnxruntime(
    network: nn.Module, way: Preconditioning | None, shape: tuple[int, ...], tmp_path: Path
) -> None:
    mean = torch.linspace(0.3, 0.5, shape[0]).view(-1, 1, 1)
    model = filled(ScoreModel(network, mean, 0.3, preconditioning=way))
    run = Run(score=model, recipe=Recipe(network="Mine", arguments={}, shape=shape, sampling=SAMPLING))
    (made,) = ncsn.export(run, tmp_path / "it.onnx", precision="fp32")
    assert made.rounding == 0
    score = opened(made.path)
    for n in (1, 9):
        assert off(score(*noised(n, shape)), model(*noised(n, shape))) < 1e-4
    assert read(made.path).recipe.sampling.guidance == 1  # as the run itself, which has no guide of any kind


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path, Path]:
    """A run that computes in bfloat16, and its files: in fp32 and in fp16."""
    run, folder = small(), tmp_path_factory.mktemp("both")
    run.model.autocast, digest = torch.bfloat16, run.digest
    ncsn.export(run, folder / "fp32.onnx", precision="fp32")
    ncsn.export(run, folder / "fp16.onnx")
    assert (run.model.autocast, run.digest) == (torch.bfloat16, digest)
    run.model.autocast = None
    return run, folder / "fp32.onnx", folder / "fp16.onnx"


def test_channels_and_classes_are_where_they_were(both: tuple[Run, Path, Path]) -> None:
    run, path, _ = both
    score, (x, sigma) = opened(path), noised(4, run.recipe.shape)
    found = {k: score(x, sigma, torch.full((4,), k)) for k in (-1, 0, 1, 2)}
    for k, mine in found.items():
        assert off(mine, run.model(x, sigma, torch.full((4,), k))) < 1e-5
        assert all(off(mine, other) > 1e-3 for j, other in found.items() if j != k)
    assert off(found[-1], run.model(x, sigma)) < 1e-5
    mixed = score(x, sigma, torch.tensor([2, -1, 0, 1]))
    assert off(mixed, torch.stack([found[k][i] for i, k in enumerate((2, -1, 0, 1))])) < 1e-5
    card = read(path)
    assert (card.precision, card.recipe.shares, card.names) == ("fp32", SHARES, tuple(SHARES))
    assert card.recipe.sampling.guide == "unconditional"  # as the run itself, which has no smaller network


def test_half_the_bytes_are_the_nearest_weights_that_float16_has(both: tuple[Run, Path, Path]) -> None:
    run, whole, half = both
    assert whole.stat().st_size - half.stat().st_size == pytest.approx(2 * run.parameters, rel=0.2)
    (x, sigma), label = noised(5, run.recipe.shape), torch.arange(5) % 4 - 1
    nearest = writing.rounded(run.model)
    assert all(torch.equal(weight, weight.half().float()) for weight in nearest.network.parameters())
    mine = opened(half)(x, sigma, label)
    assert off(mine, nearest(x, sigma, label)) < 1e-5
    assert 1e-5 < off(mine, run.model(x, sigma, label)) < writing.ROUNDING


def test_a_file_that_is_off_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def permuted(model: ScoreModel, *rest: Any) -> bytes:
        """As by an exporter that mistakes pixel_unshuffle for SpaceToDepth: channels are in another order."""
        wrong = writing.plain(model)
        weight = wrong.get_parameter("network.stem.weight")
        weight.copy_(weight.view(len(weight), 3, 4, 3, 3).transpose(1, 2).flatten(1, 2))
        return graph.onnx_of(wrong, *rest)

    monkeypatch.setattr(writing, "onnx_of", permuted)
    (tmp_path / "it.onnx").write_bytes(b"precious")
    complaint = (
        r"^the score's file would be \S+ off PyTorch, over 0.0001: torch \S+ does not export this network right$"
    )
    with pytest.raises(ValueError, match=complaint):
        ncsn.export(small(), tmp_path / "it.onnx", overwrite=True)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"precious"]


def test_weights_that_float16_has_not_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = small()
    monkeypatch.setattr(writing, "ROUNDING", 1e-9)
    said = "weights in float16 change the score by"
    with pytest.raises(ValueError, match=rf"^{said} \S+e-0\d, over 1e-09; export them in fp32$"):
        ncsn.export(run, tmp_path / "it.onnx")
    monkeypatch.undo()
    run.model.get_parameter("network.head.bias").data += 70_000
    with pytest.raises(ValueError, match=rf"^{said} (inf|nan), over 0.01"):
        ncsn.export(run, tmp_path / "it.onnx")
    run.model.get_parameter("network.head.bias").data *= torch.nan
    with pytest.raises(ValueError, match=r"^the score is not finite on all noise levels; there is nothing to export$"):
        ncsn.export(run, tmp_path / "it.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ("{", "cannot be read"),
        ({"format": 2}, "format is 2; this program reads format 1"),
        ({"levels": [0.01, 10.0]}, "noise levels are 0.01, 10;"),
        ({"levels": [float("nan")]}, "NaN is no finite number"),
        ({"shift": [1.0]}, "shift has 1 numbers and scale 0; none, or 210 each"),
        ({"shift": [1.0] * 210, "scale": [0.0] * 210}, "and a positive scale"),
        ({"part": "x"}, "part is 'x'"),
        ({"more": 1}, "more is no field of it"),
    ],
)
def test_what_a_file_says_is_checked_when_it_is_read(said: Any, complaint: str, tmp_path: Path) -> None:
    text = said if isinstance(said, str) else json.dumps(json.loads(Card.of(small(), "fp16").json) | said)
    path, model = tmp_path / "it.onnx", onnx.ModelProto()
    onnx.helper.set_model_props(model, {"ncsn": text})
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=complaint) as refused:
        read(path)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "it.onnx"
    path.write_bytes(onnx.ModelProto(ir_version=8).SerializeToString())
    with pytest.raises(ValueError, match=r"it.onnx was not written by ncsn export$"):
        read(path)
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(ValueError, match=r"^\S+it.onnx is no ONNX file \("):
        read(path)
    with pytest.raises(ValueError, match=r"nothing.onnx cannot be read \(No such file"):
        read(tmp_path / "nothing.onnx")


class Odd(nn.Module):
    """A network whose way depends on its numbers, which no graph can."""

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


def test_what_cannot_be_exported_is_said_in_one_line(tmp_path: Path) -> None:
    run = small()
    condition = run.posterior(lambda x: x, torch.zeros(run.recipe.shape), noise_std=1.0)
    odd = ScoreModel(Odd(), 0.4, 0.3)
    plain = replace(run.recipe, arguments={}, shares={}, network="Odd")
    for refused, complaint in (
        (replace(run, score=GaussianScore(0, 1)), "the score is a GaussianScore; a ScoreModel is needed"),
        (replace(run, guide=GaussianScore(0, 1)), "the score is a GaussianScore; a ScoreModel is needed"),
        (condition, "a posterior is no network; export the run that it was made of"),
        (replace(run, score=odd, recipe=plain), r"torch cannot export the score's network \([^\n]+\)"),
    ):
        with pytest.raises(ValueError, match=f"^{complaint}$"):
            ncsn.export(refused, tmp_path / "it.onnx")
    with unchecked(), pytest.raises(ValueError, match=r"^precision is bf16; allowed are fp16 and fp32$"):
        ncsn.export(run, tmp_path / "it.onnx", precision="bf16")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The line in which the command refuses these."""
    with pytest.raises(SystemExit) as stop:
        cli.main(["export", *args])
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    return printed.err


def test_the_command_says_how_large_and_how_far_off_each_file_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments: dict[str, Argument] = {"dimensions": 2, "width": 64, "layers": 3}
    score, guide = (filled(ScoreModel(MLP(2, 64, 3), torch.tensor([0.1, 0.2]), 0.9)) for _ in range(2))
    units = Units(torch.tensor([1500.0, 0.5]), torch.tensor([700.0, 0.25]))
    recipe = Recipe(network="MLP", arguments=arguments, shape=(2,), sampling=SAMPLING)
    folder, out = tmp_path / "run", tmp_path / "it.onnx"
    Run(score=score, recipe=recipe, guide=guide, units=units).save(folder)
    cli.main(["export", str(folder), str(out)])
    first, second = capsys.readouterr().out.splitlines()
    said, rounding = r"at most \d\.\de-0\d off PyTorch", r", after its weights' rounding, which is \d\.\de-0\d"
    assert re.fullmatch(rf"\S+it\.onnx: 0\.\d\d MB, {said}{rounding}", first)
    assert re.fullmatch(rf"\S+it\.guide\.onnx: 0\.\d\d MB, {said}{rounding}", second)
    card, half = read(out), out.stat().st_size
    assert (card.shift, card.scale) == ((1500.0, 0.5), (700.0, 0.25))
    assert card.recipe.sampling.guidance == 2
    assert off(opened(out)(*noised(7, (2,))), score(*noised(7, (2,)))) < writing.ROUNDING

    assert "it.onnx exists; give --overwrite to replace it" in refused(capsys, str(folder), str(out))
    out.unlink()
    assert "it.guide.onnx exists; give --overwrite" in refused(capsys, str(folder), str(out))
    cli.main(["export", str(folder), str(out), "--precision", "fp32", "--overwrite"])
    assert re.search(rf"it\.onnx: 0\.\d\d MB, {said}\n", capsys.readouterr().out)
    assert out.stat().st_size > 1.5 * half
    assert off(opened(out)(*noised(7, (2,))), score(*noised(7, (2,)))) < 1e-5


def test_the_command_refuses_what_makes_no_sense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "it.pt ends in '.pt'; allowed: .onnx" in refused(capsys, "mnist", str(tmp_path / "it.pt"))
    assert "nowhere is no run" in refused(capsys, str(tmp_path / "nowhere"), str(tmp_path / "it.onnx"))
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    said = refused(capsys, "mnist", str(tmp_path / "it.onnx"))
    assert "export needs onnxscript: pip install 'ncsn[export]'" in said
    assert not list(tmp_path.iterdir())
