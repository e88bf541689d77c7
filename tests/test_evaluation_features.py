"""What images are seen by: pretrained networks, the user's own, files of samples, and the page that shows it all."""

import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ncsn import evaluation, metrics, plots
from ncsn.data import Images, Labels, mnist
from ncsn.data.pixels import Depth
from ncsn.evaluation import Features
from ncsn.networks.classifier import Classifier


def noise(n: int, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    return torch.randint(256, (n, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def of_shape(*shape: int) -> Images:
    channels, height, width = shape
    train, validation, test = (noise(20, (channels, height, width), seed) for seed in range(3))
    return Images(train, validation, test)


def test_digits_are_judged_by_the_classifier_of_digits_and_nothing_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    own, natural = replace(evaluation.PIXELS, name="its own"), replace(evaluation.PIXELS, name="efficientnet")
    monkeypatch.setattr("ncsn.evaluation.classifiers.trained", lambda images, device: own)
    monkeypatch.setattr("ncsn.evaluation.borrowed.efficientnet", lambda device: natural)
    assert evaluation.choose(mnist()).name == "digit classifier"
    letters = of_shape(1, 28, 28)
    index = torch.arange(20) % 2
    labels = Labels(train=index, validation=index, test=index, names=("A", "B"))
    for images in (replace(letters, labels=labels), replace(letters, labels=labels, name="mnist")):
        assert evaluation.choose(images) is own
    for without in (letters, replace(letters, labels=replace(labels, names=("A",)))):
        assert evaluation.choose(without) is natural


def test_the_classifier_takes_images_of_any_shape_and_still_has_the_weights_of_the_package() -> None:
    for channels, height, width in ((1, 28, 28), (3, 32, 32), (4, 7, 130), (2, 65, 200)):
        network = Classifier(channels, (height, width), 5).eval()
        assert network(torch.rand(2, channels, height, width)).shape == (2, 5)
    with pytest.raises(ValueError, match="3 x 9 pixels; the classifier needs at least 4 x 4"):
        Classifier(1, (3, 9), 2)
    assert set(Classifier().state_dict()) == set(evaluation.load_classifier().state_dict())


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("vgg", "features are vgg; allowed are auto, pixels, classifier"),
        ("vgg.pth", "features are vgg.pth; allowed are"),
        ("inception:nowhere.pth", "but nowhere.pth does not exist"),
        ("mine.onnx", "but mine.onnx does not exist"),
        ("classifier", "the data has no classes that a classifier could tell apart"),
    ],
)
def test_features_that_there_are_not_are_refused(name: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        evaluation.choose(of_shape(3, 8, 8), name)


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("efficientnet", "efficientnet_lite_pytorch", "features"),
        ("inception:w.pth", "torch_fidelity.feature_extractor_inceptionv3", "inception"),
        ("dinov2:.", "transformers", "dinov2"),
        ("w.onnx", "onnxruntime", "onnx"),
    ],
)
def test_a_library_that_is_missing_is_named_with_the_command_that_installs_it(
    name: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("w.pth", "w.onnx"):
        (tmp_path / file).touch()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"pip install 'ncsn\[{extra}\]'"):
        evaluation.choose(of_shape(3, 8, 8), name)


class Means(nn.Module):
    """Two features: the means of the upper and of the lower half of three-channel images."""

    def forward(self, x: Tensor) -> Tensor:
        red, green, blue = x.unbind(1)
        half = x.shape[2] // 2
        grey = (red + green + blue) / 3
        return torch.stack([grey[:, :half].mean((1, 2)), grey[:, half:].mean((1, 2))], 1)


def means(images: Tensor) -> Tensor:
    seen: Tensor = Means()(images.float() / 255 * torch.ones(1, 3, 1, 1))
    return seen


def scripted(network: nn.Module, path: Path, *example: int) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch would have us export; users have what they have
        torch.jit.trace(network, torch.rand(*example)).save(str(path))  # type: ignore[no-untyped-call]
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_of_the_users_own_in_torchscript(channels: int, tmp_path: Path) -> None:
    path = scripted(Means(), tmp_path / "means.ts", 2, 3, 8, 8)
    images = of_shape(channels, 8, 8)
    features = evaluation.choose(images, str(path))
    torch.testing.assert_close(features(images.test).features, means(images.test))
    found = evaluation.evaluate(images.validation, images, features)
    assert (found.features, found.dimensions, found.classes, len(found.digest)) == ("means.ts", 2, (), 64)
    assert "confident" not in found.metrics


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_network_that_is_of_no_use_is_refused_in_one_line(tmp_path: Path) -> None:
    path = scripted(Means(), tmp_path / "means.ts", 2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"does not take images of shape \(2, 4, 8, 8\)"):
        evaluation.torchscript(path, (4, 8, 8))
    same = scripted(nn.Identity(), tmp_path / "same.pt", 2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"returns \(2, 3, 8, 8\) for two images; \(2, f\) with f >= 2 is needed"):
        evaluation.torchscript(same, (3, 8, 8))
    (tmp_path / "text.pt").write_text("no network")
    with pytest.raises(ValueError, match="is no TorchScript network"):
        evaluation.torchscript(tmp_path / "text.pt", (3, 8, 8))


def test_a_network_of_the_users_own_in_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    # The mean over rows and columns, of three channels: (n, 3, h, w) → (n, 3).
    value, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    reals = onnx.TensorProto.FLOAT
    reduce = node("ReduceMean", ["x", "axes"], ["y"], keepdims=0)
    axes = onnx.helper.make_tensor("axes", onnx.TensorProto.INT64, [2], [2, 3])
    inputs, outputs = [value("x", reals, ["n", 3, "h", "w"])], [value("y", reals, ["n", 3])]
    graph = onnx.helper.make_graph([reduce], "means", inputs, outputs, [axes])
    path = tmp_path / "means.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), path)
    for channels in (1, 3):
        images = of_shape(channels, 6, 8)
        expected = (images.test.float() / 255).mean((2, 3)).expand(-1, 3)
        seen = evaluation.choose(images, str(path))(images.test)
        torch.testing.assert_close(seen.features, expected)
    with pytest.raises(ValueError, match="does not take images of shape"):
        evaluation.choose(of_shape(2, 6, 8), str(path))
    path.write_bytes(b"no network")
    with pytest.raises(ValueError, match="is no ONNX network"):
        evaluation.choose(of_shape(3, 6, 8), str(path))


def test_weights_that_would_be_unpickled_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("torch_fidelity")
    path = tmp_path / "w.pth"
    torch.save({"x": Path("what pickle would call")}, path)
    with pytest.raises(ValueError, match="holds no weights that can be read"):
        evaluation.inception(path)
    torch.save({"x": 1}, path)
    with pytest.raises(ValueError, match="holds a dict; tensors by name are needed"):
        evaluation.inception(path)
    torch.save({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="another network than torch-fidelity's Inception"):
        evaluation.inception(path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_inceptions_distance_is_that_of_torch_fidelity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With random weights, as those that are published cannot be shipped."""
    fidelity = pytest.importorskip("torch_fidelity")
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    path = tmp_path / "weights.pth"
    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", lambda *args, **options: {})
        patch.setattr(nn.Module, "load_state_dict", lambda self, weights: None)
        untrained = module.FeatureExtractorInceptionV3("random", ["2048"], feature_extractor_weights_path="none")
    torch.save(untrained.state_dict(), path)
    features = evaluation.choose(of_shape(3, 8, 8), f"inception:{path}")
    sets = [noise(12, (3, 32, 32)), noise(14, (3, 32, 32), 1) // 2]
    x, y = (features(images).features for images in sets)
    theirs = fidelity.calculate_metrics(
        input1=Listed(sets[0]),
        input2=Listed(sets[1]),
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(path),
        fid=True,
        cuda=False,
        cache=False,
        verbose=False,
    )
    assert features.frechet == "fid"
    assert theirs["frechet_inception_distance"] > 0
    assert metrics.frechet_distance(x, y) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)


class Listed(torch.utils.data.Dataset[Tensor]):
    """Images as torch-fidelity takes them."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


@pytest.mark.filterwarnings("ignore")
def test_dinov2_from_a_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=56, patch_size=14
    )
    network = transformers.Dinov2Model(config).eval()
    network.save_pretrained(tmp_path / "small")
    features = evaluation.choose(of_shape(3, 8, 8), f"dinov2:{tmp_path / 'small'}")
    images = torch.full((2, 3, 8, 8), 128, dtype=torch.uint8)
    images[1] = 0
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    grey = ((torch.tensor([128 / 255, 0.0])[:, None] - mean) / std)[..., None, None].expand(2, 3, 224, 224)
    with torch.no_grad():
        expected = network(grey).last_hidden_state[:, 0]
    torch.testing.assert_close(features(images).features, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"is no folder with config\.json and model.safetensors"):
        evaluation.dinov2(tmp_path)
    with pytest.raises(ValueError, match="images have 2 channels"):
        features(noise(2, (2, 8, 8)))


SHAPED: list[tuple[dict[str, tuple[int, ...]], str, tuple[int, ...]]] = [
    ({"samples": (100, 1, 6, 8)}, "", (1, 6, 8)),
    ({"samples": (100, 6, 8)}, "", (1, 6, 8)),
    ({"samples": (100, 6, 8, 3)}, "", (3, 6, 8)),
    ({"samples": (100, 6, 8, 3), "other": (9, 9, 9)}, "", (3, 6, 8)),
    ({"arr_0": (100, 3, 6, 8), "labels": (100,)}, "arr_0 is taken for the samples", (3, 6, 8)),
]


@pytest.mark.parametrize(("arrays", "said", "shape"), SHAPED)
def test_samples_are_read_as_they_are_meant(
    arrays: dict[str, tuple[int, ...]], said: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    made = {name: np.arange(np.prod(size)).reshape(size).astype(np.uint8) for name, size in arrays.items()}
    np.savez(tmp_path / "x.npz", **made)  # type: ignore[arg-type]
    samples, lines = evaluation.read_samples(tmp_path / "x.npz", 70)
    first = next(iter(made.values()))[:70]
    assert samples.shape == (70, *shape)
    expected = first.transpose(0, 3, 1, 2) if first.ndim == 4 and first.shape[3] == 3 else first
    assert np.array_equal(samples.numpy(), expected.reshape(70, *shape))
    assert len(lines) == (said != "")
    assert all(said in line for line in lines)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, ">f8"])
def test_samples_in_reals_become_bytes_and_that_is_said(dtype: Any, tmp_path: Path) -> None:
    pixels = noise(100, (1, 4, 4)).numpy()
    np.savez(tmp_path / "x.npz", samples=(pixels / 255).astype(dtype))
    samples, said = evaluation.read_samples(tmp_path / "x.npz")
    assert np.abs(samples.numpy().astype(int) - pixels).max() <= (1 if dtype is np.float16 else 0)
    assert said == (f"{tmp_path / 'x.npz'}: reals in [0, 1], rounded to bytes",)


def test_reals_of_other_data_are_refused_and_what_is_cut_off_is_said(tmp_path: Path) -> None:
    path, depth = tmp_path / "x.npz", Depth("float32", 0, 1)

    def read(low: float, high: float) -> tuple[str, ...]:
        samples = np.linspace(low, high, 100 * 16, dtype=np.float32).reshape(100, 1, 4, 4)
        np.savez(path, samples=samples)
        return evaluation.read_samples(path, depth=depth)[1]

    assert len(read(0, 1)) == 1
    assert read(-0.25, 1)[0] == f"{path}: 20.00% of its numbers lie outside, and are cut off"
    with pytest.raises(ValueError, match=r"holds numbers from -1 to 1, the data from 0 to 1$"):
        read(-1, 1)
    with pytest.raises(ValueError, match="holds numbers from nan to nan"):
        read(np.nan, 1)


@pytest.mark.parametrize("content", ["absent", "text", "two", "none", "range", "nan", "few", "deep", "cut"])
def test_files_that_hold_no_samples_are_refused(content: str, tmp_path: Path) -> None:
    path, good = tmp_path / "x.npz", np.zeros((200, 1, 28, 28), np.uint8)
    complaints = {
        "absent": "cannot be read as an .npz",
        "text": "cannot be read as an .npz",
        "two": "one array of images, or one named samples, is needed",
        "none": "one array of images, or one named samples, is needed",
        "range": r"holds reals from 0 to 1.5; \[0, 1\] is needed",
        "nan": "holds reals from nan to nan",
        "few": "holds 99 images; at least 100 are needed",
        "deep": "is of uint16; uint8, or reals in",
        "cut": "cannot be read as an .npz",
    }
    arrays: dict[str, dict[str, Any]] = {
        "two": {"a": good, "b": good},
        "none": {"a": good[0, 0, 0]},
        "range": {"samples": np.linspace(0, 1.5, good.size).reshape(good.shape)},
        "nan": {"samples": np.full((100, 4, 4), np.nan)},
        "few": {"samples": good[:99]},
        "deep": {"samples": good.astype(np.uint16)},
        "cut": {"samples": good},
    }
    if content == "text":
        path.write_text("no array")
    elif content in arrays:
        np.savez(path, **arrays[content])
    if content == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=complaints[content]):
        evaluation.read_samples(path)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("classes", [0, 3, 40])
def test_the_page_shows_any_images_and_any_number_of_classes(channels: int, classes: int) -> None:
    def embed(images: Tensor) -> Tensor:
        return images.flatten(1)[:, :4].float() / 255

    def head(features: Tensor) -> Tensor:
        return features[:, :1] * torch.arange(float(classes))

    features = Features(
        name="four",
        embed=embed,
        head=head if classes else None,
        classes=tuple(f"class {i}" for i in range(classes)),
    )
    images = of_shape(channels, 7, 9)
    found = evaluation.evaluate(images.validation, images, features)
    figure = plots.evaluation_page(images.validation[:20], images.train[:20], found)
    figure.draw_without_rendering()
    assert len(figure.axes) == (3 if classes else 2)
    title = figure.axes[0].get_title()
    assert title.endswith(
        "training image" if channels in (1, 3) else f"({3 if channels > 3 else 1} of {channels} channels)"
    )


def test_a_page_of_pixels_alone_has_one_ratio() -> None:
    images = of_shape(3, 7, 9)
    found = evaluation.evaluate(images.validation, images, evaluation.PIXELS)
    figure = plots.evaluation_page(images.validation[:10], images.train[:10], found)
    assert len(figure.axes[1].patches) == 1
