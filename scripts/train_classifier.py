"""Train the digit classifier that judges samples, on the 50,000 training images alone, and write its weights.

    python scripts/train_classifier.py        # about five minutes on two cores

The test images are looked at once, at the end.
"""

import hashlib
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from ncsn.evaluation.classifier import Classifier
from ncsn.images import mnist
from ncsn.machine import hardware

EPOCHS, BATCH, PEAK_RATE = 12, 250, 5e-3
OUT = Path(__file__).parent.parent / "src" / "ncsn" / "assets" / "classifier.safetensors"


def jitter(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image rotated by up to 10°, scaled by up to 10 % and shifted by up to 5 % (uniformly)."""
    most = torch.tensor([[0.175], [0.1], [0.1], [0.1]])
    angle, scale, dx, dy = (torch.rand(4, len(x), generator=generator) * 2 - 1) * most
    cos, sin = (1 + scale) * angle.cos(), (1 + scale) * angle.sin()
    transform = torch.stack([torch.stack([cos, -sin, dx], 1), torch.stack([sin, cos, dy], 1)], 1)
    grid = F.affine_grid(transform, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


@torch.no_grad()
def accuracy(network: Classifier, images: Tensor, labels: Tensor) -> float:
    """The share of images whose digit is recognised."""
    pairs = zip(torch.split(images, 1000), torch.split(labels, 1000), strict=True)
    right = [network(x.float() / 255).argmax(1) == y for x, y in pairs]
    return torch.cat(right).float().mean().item()


def main() -> None:
    """Train, report, write."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    images = mnist()
    labels = images.labels
    assert labels is not None, "digits have classes"
    network = Classifier()
    steps = EPOCHS * len(images.train) // BATCH
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps)
    for step in tqdm(range(steps), unit="step", mininterval=0.5 if sys.stderr.isatty() else 30):
        if step % (len(images.train) // BATCH) == 0:
            order = torch.split(torch.randperm(len(images.train), generator=generator), BATCH)
        chosen = order[step % len(order)]
        x = jitter(images.train[chosen].float() / 255, generator).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=hardware.fast_bfloat16(torch.device("cpu"))):
            loss = F.cross_entropy(network(x), labels.train[chosen])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    network.eval()
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, OUT)
    print(f"{OUT}: {OUT.stat().st_size} bytes, sha256 {hashlib.sha256(OUT.read_bytes()).hexdigest()}")
    print(f"accuracy: validation {accuracy(network, images.validation, labels.validation):.4f}, ", end="")
    print(f"test {accuracy(network, images.test, labels.test):.4f}")


if __name__ == "__main__":
    main()
