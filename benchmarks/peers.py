"""What people start from, or use instead: each peer with its own network, objective, optimiser settings and sampler.

A peer is made for images of one shape (channels, side, side), and of so many classes, 0 if it is not told them.  It has
two verbs: ``step`` trains on one batch, ``sample`` draws images, of the classes that it is given.  Pixels are in [0, 1]
here; a peer maps them to the range that it is used to.  Widths are chosen for about as many parameters as ours (1.9
million).

Each runs as it is fastest on two cores, measured in images/s of training: azula compiled (473 against 235; 31 s of
compilation), denoising-diffusion-pytorch with channels last (113 against 90; compiled 106), diffusers as it is (137;
compiled 151, which 70 s of compilation take back).  The plain recipe stays plain (413; channels last 462).
"""

import math
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import ncsn
from ncsn.machine import hardware

CPU = torch.device("cpu")
Shape = tuple[int, ...]
Labels = Int64[Tensor, "b"] | None


def autocast() -> torch.autocast:
    """bfloat16 where the machine has it: every peer but the plain recipe gets what ours gets."""
    return torch.autocast("cpu", torch.bfloat16, enabled=hardware.fast_bfloat16(CPU))


def count(module: nn.Module) -> int:
    """How many weights a network has."""
    return sum(p.numel() for p in module.parameters())


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, network: nn.Module, clip: float | None = None) -> None:
    """One step down the loss."""
    loss.backward()  # type: ignore[no-untyped-call]
    if clip is not None:
        nn.utils.clip_grad_norm_(network.parameters(), clip)
    optimizer.step()
    optimizer.zero_grad()


class ConvBlock(nn.Module):
    """Two convolutions with group normalisation; the noise embedding is added between them."""

    def __init__(self, inputs: int, outputs: int, features: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.norm1, self.norm2 = nn.GroupNorm(8, outputs), nn.GroupNorm(8, outputs)
        self.embedding = nn.Linear(features, outputs)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """The block's value."""
        h = torch.relu(self.norm1(self.conv1(h))) + self.embedding(embedding)[:, :, None, None]
        return torch.relu(self.norm2(self.conv2(h)))


class PlainUNet(nn.Module):
    """The U-Net of many a tutorial: 32, 64, 128 channels at all, half, a quarter of the pixels; skips concatenated."""

    def __init__(self, channels: int, levels: int, features: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(levels, features)
        self.down1, self.down2 = ConvBlock(channels, 32, features), ConvBlock(32, 64, features)
        self.middle = ConvBlock(64, 128, features)
        self.up2, self.up1 = ConvBlock(128 + 64, 64, features), ConvBlock(64 + 32, 32, features)
        self.pool, self.grow = nn.MaxPool2d(2), nn.Upsample(scale_factor=2)
        self.head = nn.Conv2d(32, channels, 1)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """The network's value at ``x`` for the indices of noise levels."""
        e = self.embedding(level)
        a = self.down1(x, e)
        b = self.down2(self.pool(a), e)
        h = self.middle(self.pool(b), e)
        h = self.up2(torch.cat([self.grow(h), b], 1), e)
        h = self.up1(torch.cat([self.grow(h), a], 1), e)
        return self.head(h)  # type: ignore[no-any-return]


class Reference:
    """The plain recipe: NCSN on ten noise levels, Adam, float32, no average, annealed Langevin without denoising."""

    about, batch_size, nfe = "plain PyTorch, float32", 128, 1000
    classes = 0  # it knows of none

    def __init__(self, shape: Shape, classes: int) -> None:
        self.shape, self.sigmas = shape, ncsn.Geometric(2.0, 0.01, 10).sigmas()
        self.network = PlainUNet(shape[0], len(self.sigmas))
        self.parameters = count(self.network)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3)

    def score(self, x: Tensor, sigma: float | Tensor, /) -> Tensor:
        """The network divided by the noise level (NCSNv2's technique 3)."""
        levels = torch.as_tensor(sigma, dtype=x.dtype).expand(len(x)).view(-1, 1)
        noise = self.network(x, (self.sigmas - levels).abs().argmin(1))
        return noise / levels.view(-1, 1, 1, 1)  # type: ignore[no-any-return]

    def step(self, x: Tensor, fraction: float, label: Labels) -> Tensor:
        """One step."""
        loss = ncsn.dsm(self.score, x, self.sigmas[torch.randint(len(self.sigmas), (len(x),))]).mean()
        descend(self.optimizer, loss, self.network)
        return loss.detach()

    def sample(self, n: int, generator: torch.Generator, label: Labels) -> Tensor:
        """Annealed Langevin dynamics, T = 100 and ε = 1e-5, from uniform noise as in the paper."""
        x = torch.rand(n, *self.shape, generator=generator)
        *_, last = ncsn.annealed_langevin(
            self.score, x, self.sigmas, eps=1e-5, steps=100, denoise=False, generator=generator
        )
        return last.x


class Diffusers:
    """diffusers' UNet2DModel in the library's unconditional training recipe: DDPM, ε-prediction, AdamW, EMA, DDPM.

    Classes by the embedding that the network has for them.
    """

    batch_size, nfe = 64, 50

    def __init__(self, shape: Shape, classes: int) -> None:
        from diffusers import DDPMScheduler, UNet2DModel
        from diffusers.training_utils import EMAModel

        self.about = f"diffusers {version('diffusers')}, DDPM"
        self.network = UNet2DModel(
            sample_size=shape[1],
            in_channels=shape[0],
            out_channels=shape[0],
            layers_per_block=2,
            block_out_channels=(32, 64, 64),
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            num_class_embeds=classes or None,
            norm_num_groups=8,  # its 32 would normalise each of 32 channels alone, and images' brightness away
        )
        self.shape, self.classes, self.parameters = shape, classes, count(self.network)
        self.noising, self.denoising = DDPMScheduler(num_train_timesteps=1000), DDPMScheduler(num_train_timesteps=1000)
        self.rate = 5e-4  # the recipe's 1e-4 is for many hours
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=self.rate, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8
        )
        self.average = EMAModel(self.network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
        self.steps = 0

    def step(self, x: Tensor, fraction: float, label: Labels) -> Tensor:
        """One step; the learning rate warms up over 500 steps and falls by a cosine."""
        self.steps += 1
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * min(1.0, self.steps / 500) * (1 + math.cos(math.pi * fraction)) / 2
        x, z, t = 2 * x - 1, torch.randn_like(x), torch.randint(1000, (len(x),))
        with autocast():
            predicted = self.network(self.noising.add_noise(x, z, t), t, class_labels=label).sample
        loss: Tensor = (predicted.float() - z).square().mean()
        descend(self.optimizer, loss, self.network, clip=1.0)
        self.average.step(self.network.parameters())
        return loss.detach()

    def sample(self, n: int, generator: torch.Generator, label: Labels) -> Tensor:
        """DDPM in 50 steps; as many of DDIM leave a grey background after so short a training."""
        self.average.store(self.network.parameters())
        self.average.copy_to(self.network.parameters())
        self.denoising.set_timesteps(self.nfe)
        x = torch.randn(n, *self.shape, generator=generator)
        for t in self.denoising.timesteps:
            with autocast():
                noise = self.network(x, t, class_labels=label).sample
            x = self.denoising.step(noise.float(), t, x, generator=generator).prev_sample
        self.average.restore(self.network.parameters())
        return (x + 1) / 2


class Azula:
    """azula's U-Net with its EDM-like denoiser, VP schedule and loss, as in its README; its DDIM sampler.

    A class is added to the time, as its U-Net is modulated by one vector.
    """

    batch_size, nfe = 64, 64

    def __init__(self, shape: Shape, classes: int) -> None:
        from azula.denoise import KarrasDenoiser
        from azula.nn.layers import SineEncoding
        from azula.nn.unet import UNet
        from azula.noise import VPSchedule

        class Backbone(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.time = nn.Sequential(SineEncoding(128), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 128))
                self.kind = nn.Embedding(classes, 128) if classes else None
                self.unet = UNet(shape[0], shape[0], hid_channels=(32, 64, 128), hid_blocks=(2, 2, 2), mod_features=128)

            def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
                known = 0 if self.kind is None or label is None else self.kind(label)
                return self.unet(x, self.time(t) + known)  # type: ignore[no-any-return]

        self.about = f"azula {version('azula')}, KarrasDenoiser, VP, DDIM sampling"
        self.shape, self.classes, self.network = shape, classes, KarrasDenoiser(Backbone(), VPSchedule())
        self.parameters, self.rate = count(self.network), 1e-3
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=self.rate)
        self.average = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(0.999))  # type: ignore[no-untyped-call]
        for module in (self.network.backbone, self.average.get_submodule("module.backbone")):
            module.compile()

    def step(self, x: Tensor, fraction: float, label: Labels) -> Tensor:
        """One step; the library has no trainer, so the learning rate falls by a cosine as in diffusers' recipe."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * (1 + math.cos(math.pi * fraction)) / 2
        with autocast():
            loss: Tensor = self.network.loss(2 * x - 1, torch.rand(len(x)), label=label)
        descend(self.optimizer, loss, self.network)
        self.average.update_parameters(self.network)
        return loss.detach()

    def sample(self, n: int, generator: torch.Generator, label: Labels) -> Tensor:
        """DDIM in 64 steps, the library's default number."""
        from azula.sample import DDIMSampler

        sampler = DDIMSampler(self.average.module.eval(), steps=self.nfe, silent=True)
        with autocast():
            x: Tensor = sampler(torch.randn(n, *self.shape, generator=generator), label=label)
        return (x.float() + 1) / 2


class Lucidrains:
    """denoising-diffusion-pytorch: its U-Net, GaussianDiffusion (v-prediction, sigmoid schedule), Adam, EMA; DDIM.

    With classes, its module for classifier-free guidance, which predicts noise, on a cosine schedule; half of the
    examples are shown without their class.  Samples are guided by 1.5, as ours are: its own weight, 6, saturates such
    small models, and without guidance its sampling fails (2.3.4).
    """

    batch_size, guidance = 64, 1.5

    def __init__(self, shape: Shape, classes: int) -> None:
        if classes:
            from denoising_diffusion_pytorch.classifier_free_guidance import GaussianDiffusion, Unet
        else:
            from denoising_diffusion_pytorch import GaussianDiffusion, Unet
        from ema_pytorch import EMA

        self.about = f"denoising-diffusion-pytorch {version('denoising-diffusion-pytorch')}, DDIM sampling"
        self.classes, kinds = classes, {"num_classes": classes} if classes else {}
        self.nfe = 100 if classes else 50  # guided, it evaluates with and without the class
        self.network = GaussianDiffusion(
            Unet(dim=24, dim_mults=(1, 2, 4), channels=shape[0], **kinds),
            image_size=shape[1],
            timesteps=1000,
            sampling_timesteps=50,
        ).to(memory_format=torch.channels_last)
        self.parameters = count(self.network)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=5e-4, betas=(0.9, 0.99))
        self.average = EMA(self.network, beta=0.995, update_every=10)

    def step(self, x: Tensor, fraction: float, label: Labels) -> Tensor:
        """One step, as the library's Trainer does it."""
        with autocast():
            loss: Tensor = self.network(x) if label is None else self.network(x, classes=label)
        descend(self.optimizer, loss, self.network, clip=1.0)
        self.average.update()
        return loss.detach()

    def sample(self, n: int, generator: torch.Generator, label: Labels) -> Tensor:
        """DDIM in 50 steps; the library draws from torch's global generator."""
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        model = self.average.ema_model.eval()
        with autocast():
            drawn = model.sample(batch_size=n) if label is None else model.sample(label, cond_scale=self.guidance)
        return drawn.float()  # type: ignore[no-any-return]


PEERS: dict[str, Callable[[Shape, int], Any]] = {
    "reference": Reference,
    "diffusers": Diffusers,
    "azula": Azula,
    "denoising-diffusion-pytorch": Lucidrains,
}
UNTOLD = ("reference",)  # those that know of no classes
