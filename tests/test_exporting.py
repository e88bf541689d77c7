"""ONNX files of runs: onnxruntime computes from them what PyTorch computes, and what is off is not written."""

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from helpers import GaussianScore, Patch, Printed, per_example, refusal, run_ncsn, unchecked
from torch import Tensor, nn

import ncsn
from ncsn import MLP, Recipe, Run, Sampling, ScoreModel
from ncsn.data.columns import Columns, Number
from ncsn.settings import Reading

SAMPLING = Sampling(
    sigma_max=10.0, sigma_min=0.01, sampler="dpmpp-sde", levels=6, steps=1, eps=5e-5, guidance=2.0, guide="smaller"
)
SHARES = {"cats": 0.5, "dogs": 0.25, "3": 0.25}


def filled(model: ScoreModel) -> ScoreModel:
    """With weights that leave nothing out."""
    generator = torch.Generator().manual_seed(1)
    for weight in model.network.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    return model.requires_grad_(False).eval()


def small() -> Run:
    """A run of small images in colour: not square, padded inside, and told classes."""
    arguments: dict[str, Any] = {"image_channels": 3, "channels": (8,), "blocks": 1, "features": 8, "num_classes": 3}
    of_images: dict[str, Any] = {"network": "UNet", "shape": (3, 10, 7), "preconditioning": "scaled"}
    recipe = Recipe(arguments=arguments, sampling=SAMPLING, shares=SHARES, **of_images)
    return Run(score=filled(recipe.build({"data_mean": 0.4, "data_std": 0.3})), recipe=recipe)


def opened(path: Path) -> tuple[Callable[..., Tensor], dict[str, Any]]:
    """The file as a function of tensors, and its metadata, as a user would have them."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    assert names == ["x", "sigma", "label"][: len(names)]

    def score(*values: Tensor) -> Tensor:
        inputs = {name: value.numpy() for name, value in zip(names, values, strict=True)}
        return torch.from_numpy(session.run(["score"], inputs)[0])

    return score, json.loads(session.get_modelmeta().custom_metadata_map["ncsn"])


def noised(n: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Noised data, and its noise levels, from 0.01 to 10."""
    generator = torch.Generator().manual_seed(5)
    sigma = torch.logspace(-2, 1, n) if n > 1 else torch.tensor([0.3])
    x = torch.rand(n, *shape, generator=generator)
    return x + per_example(sigma, x) * torch.randn(x.shape, generator=generator), sigma


def off(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest number of the same example."""
    assert a.shape == b.shape
    return float(((a - b).abs().flatten(1).amax(1) / b.abs().flatten(1).amax(1)).max())


def test_classes_are_where_they_were_and_nothing_is_said_of_this_machine(tmp_path: Path) -> None:
    run, path = small(), tmp_path / "it.onnx"
    run.model.autocast, digest = torch.bfloat16, run.digest  # which is not exported
    assert ncsn.export(run, path) == list(tmp_path.iterdir()) == [path]
    assert (run.model.autocast, run.digest) == (torch.bfloat16, digest)
    run.model.autocast = None
    content = path.read_bytes()
    for word in (str(Path(ncsn.__file__).parent), "site-packages", "stack_trace", "forward", ".py"):
        assert word.encode() not in content
    (computed, metadata), (x, sigma) = opened(path), noised(5, run.recipe.shape)
    label = torch.tensor([2, -1, 0, 1, 2])
    expected = run.model(x, sigma, label)
    assert off(computed(x, sigma, label), expected) < 1e-5
    for k in (-1, 0, 1, 2):
        same, alone = label == k, computed(x, sigma, torch.full((5,), k))
        assert off(alone[same], expected[same]) < 1e-5
        assert off(alone[~same], expected[~same]) > 1e-3
    assert metadata["names"] == list(SHARES)
    assert metadata["recipe"]["sampling"]["guide"] == "unconditional"  # as the run itself, without a smaller network


def points(*, guided: bool) -> Run:
    """A run of points in units of their own, which is quickly exported."""
    torch.manual_seed(2)
    score, guide = (filled(ScoreModel(MLP(2, 64, 3), torch.tensor([0.1, mean]), 0.9)) for mean in (0.2, 0.4))
    columns = Columns(columns=(Number(name="a", shift=1500.0, scale=700.0), Number(name="b", shift=0.5, scale=0.25)))
    arguments: dict[str, Any] = {"dimensions": 2, "width": 64, "layers": 3}
    recipe = Recipe(network="MLP", arguments=arguments, shape=(2,), sampling=SAMPLING, transform=columns)
    return Run(score=score, recipe=recipe, guide=guide if guided else None)


def test_the_command_writes_score_and_guide_and_what_sampling_needs(
    tmp_path: Path, capsys: Printed, caplog: pytest.LogCaptureFixture, monkeypatch: Patch
) -> None:
    """Torch's remarks about packages that it does not need are nobody's business."""
    monkeypatch.setattr(logging.getLogger("torch.onnx"), "handlers", [caplog.handler])
    folder, out, beside = tmp_path / "run", tmp_path / "i\x1b[31mt.onnx", tmp_path / "i\x1b[31mt.guide.onnx"
    points(guided=True).save(folder)
    run = ncsn.load(folder, device="cpu")
    beside.touch()
    assert "exists" in refusal(capsys, "export", str(folder), str(out))  # its guide is there
    assert not out.exists()
    run_ncsn("export", str(folder), str(out), "--overwrite")
    said = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert said == [str(path).replace("\x1b", "?") for path in (out, beside)]  # which a terminal would obey
    assert not [record for record in caplog.records if record.name.startswith("torch.onnx")]
    metadata = {}
    for path, model in ((out, run.model), (beside, run.guide)):
        assert isinstance(model, ScoreModel)
        computed, metadata[path] = opened(path)
        for n in (1, 7):
            assert off(computed(*noised(n, (2,))), model(*noised(n, (2,)))) < 1e-5
    assert metadata[beside] == metadata[out]
    assert metadata[out] == {
        "format": 1,
        "run": run.digest,
        "recipe": json.loads(json.dumps(asdict(run.recipe))),
        "levels": run.recipe.sampling.ladder().tolist(),
        "names": [],
        "shift": [1500.0, 0.5],
        "scale": [700.0, 0.25],
    }


def test_a_file_that_is_off_by_one_number_is_not_written(tmp_path: Path, monkeypatch: Patch) -> None:
    """However many are right."""
    session, batches = onnxruntime.InferenceSession, []
    run = session.run

    def off(self: Any, *arguments: Any) -> Any:
        (score,) = run(self, *arguments)
        batches.append(len(score))
        if len(batches) == 2:
            score = score.copy()
            score.reshape(-1)[abs(score[0]).argmax()] *= 1.01
        return [score]

    monkeypatch.setattr(session, "run", off)
    (tmp_path / "it.onnx").write_bytes(b"precious")
    with pytest.raises(ValueError, match=r"differs from PyTorch's by 1\.0e-02"):
        ncsn.export(points(guided=False), tmp_path / "it.onnx", overwrite=True)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"precious"]
    assert len({*batches}) > 2, "batches of several sizes"


class Odd(nn.Module):
    """A network whose way depends on its numbers, which no graph can."""

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


def test_what_cannot_be_exported_leaves_no_file(tmp_path: Path, monkeypatch: Patch) -> None:
    run, beyond = points(guided=False), points(guided=False)
    beyond.model.get_parameter("network.output.bias").data += float("inf")
    recipe = replace(run.recipe, arguments={}, shares={}, network="Odd")
    rows = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    cases: list[tuple[Any, str]] = [
        (ncsn.fit(rows, steps=1, device="cpu"), "^the network of a table learns conditionals"),
        (replace(run, score=GaussianScore(0, 1)), "expected a ScoreModel"),
        (replace(run, guide=GaussianScore(0, 1)), "expected a ScoreModel"),
        (run.posterior(lambda x: x, torch.zeros(run.recipe.shape), noise_std=1.0), "PosteriorRun"),
        (Run(score=ScoreModel(Odd(), 0.4, 0.3), recipe=recipe), r"^torch cannot export the network [^\n]+$"),
        (beyond, "by nan"),
    ]
    for refused, complaint in cases:
        with unchecked(), pytest.raises(ValueError, match=complaint):
            ncsn.export(refused, tmp_path / "it.onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match="export needs onnxscript"):
        ncsn.export(run, tmp_path / "it.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_is_of_single_precision_whatever_the_usual_type_is(tmp_path: Path) -> None:
    run = points(guided=False)
    torch.set_default_dtype(torch.float64)
    ncsn.export(run, tmp_path / "it.onnx")
    torch.set_default_dtype(torch.float32)
    computed, _ = opened(tmp_path / "it.onnx")
    assert off(computed(*noised(5, (2,))), run.model(*noised(5, (2,)))) < 1e-5


class Shifted(nn.Module):
    """A network that is quickly exported."""

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return x / 10 + c.view(-1, *[1] * (x.ndim - 1))


def test_an_exported_signal_has_the_units_of_every_number_and_an_image_those_of_the_user(tmp_path: Path) -> None:
    np.save(tmp_path / "signals.npy", np.array([[[8.0, 12.0], [-8.0, 2.0]]] * 30))
    np.save(tmp_path / "images.npy", np.arange(30 * 4, dtype=np.uint16).reshape(30, 2, 2, 1))
    shift = [10.0, 10.0, -3.0, -3.0]
    for name, units in (("signals", (shift, [2.0, 2.0, 5.0, 5.0])), ("images", ([], []))):  # x is in the user's units
        data = ncsn.load_dataset(tmp_path / f"{name}.npy", reading=Reading(signals=name == "signals"))
        recipe = Recipe(network="Shifted", arguments={}, shape=data.shape, sampling=SAMPLING, transform=data.transform)
        ncsn.export(Run(score=ScoreModel(Shifted()), recipe=recipe), tmp_path / f"{name}.onnx")
        _, metadata = opened(tmp_path / f"{name}.onnx")
        assert (metadata["shift"], metadata["scale"]) == units
        assert metadata["recipe"]["transform"]["type"] == ("scale" if name == "signals" else "depth")
