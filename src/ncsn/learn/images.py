"""Learning the score of images: from settings with gaps to settings without, and to a recipe."""

import math
from dataclasses import fields, replace
from pathlib import Path

import torch

from ncsn import storage
from ncsn.data import Images as Pictures
from ncsn.data import Origin, load_images
from ncsn.data.named import DOWNLOADS
from ncsn.data.reading import short_name
from ncsn.learn import rules
from ncsn.learn.rules import Facts
from ncsn.learn.settings import Images, ResolvedImages, check_auto, given_ones
from ncsn.noise import Geometric, LogNormal, LogUniform, Proposal, suggest_noise
from ncsn.recipe import Argument, Recipe
from ncsn.samplers import METHODS, Sampling
from ncsn.validation import validated

NETWORKS = {"unet": "UNet", "refinenet": "NCSN", "refinenet-v2": "NCSNv2"}


def recalled(given: Images) -> Images:
    """The settings as given; with ``--resume`` those of the run that is there, if there is one, for another job.

    A budget that is given is the run's new total; ``--no-compile`` and ``--accumulate`` count from now on.
    Raises ValueError if the run is of another experiment, or its settings are none.
    """
    out = given.job.out or Path("runs") / short_name(given.dataset)
    job = replace(given.job, out=out)
    if not given.job.resume or not storage.begun(out) or isinstance(given, ResolvedImages):
        return replace(given, job=job)
    saved = storage.read_settings(out, "images")
    saved["compile"] = saved.get("compile", True) and given.compile
    saved["accumulate"] = given.accumulate
    if given.minutes is not None or given.steps is not None:
        saved |= {"minutes": given.minutes, "steps": given.steps}
    return replace(validated(ResolvedImages, saved, f"{out / 'config.json'}: settings"), job=job)


def found(given: Images) -> tuple[Pictures, Origin]:
    """The images to train on, and where they are; with ``--resume`` the run's own, also where DATA says they are now.

    Raises ValueError if they cannot be read, if they are others than the run's, or if the folder holds another run.
    """
    settings = recalled(given)
    job = settings.job
    assert job.out is not None
    storage.check(job.out, overwrite=job.overwrite, resume=job.resume)
    origin = storage.read_config(job.out).data if job.resume and storage.begun(job.out) else None
    if origin is None:
        images = load_images(settings.dataset, job.data_dir, reading=settings.reading)
        return images, Origin.of(settings.dataset, job.data_dir, settings.reading, images)
    own = given.dataset == settings.dataset
    # The default says nothing of where a run's images are.
    moved = given.dataset if not own and given_ones(given, ["dataset"]) else None
    if not own and moved is None:
        print(f"{job.out} goes on with its own images, {settings.dataset}")
    if moved is None and job.data_dir is not None and origin.dataset in DOWNLOADS:
        moved = str(job.data_dir)
    return origin.load(moved), origin if moved is None else origin.moved(moved)


def resolve(given: Images, pictures: Pictures, device: torch.device) -> ResolvedImages:
    """The settings with a value for whatever was not given, from the data, the machine and each other.

    Raises ValueError if they contradict the data.
    """
    if isinstance(given, ResolvedImages):
        return given
    if pictures.shards is not None and given.posterior_above is not None:
        raise ValueError(
            f"posterior_above is {given.posterior_above}; it asks all training images at every step, and these stay in "
            "their shards: leave it out"
        )
    if given.langevin_steps is not None and not METHODS[given.sampler].langevin:
        raise ValueError(f"langevin_steps is {given.langevin_steps}, but {given.sampler} takes no Langevin steps")
    if given.network != "unet" and given_ones(given, ["blocks"]):
        raise ValueError(f"blocks is {given.blocks}, but {given.network} has as many as its paper says")
    langevin = ("levels", "langevin_steps") if given.sampler == "annealed" else ()
    check_auto(given, ("sigma_max", "sigma_min", "eps", *langevin))
    changes: dict[str, object] = {}
    if given.noise == "auto":
        found = suggest_noise(rules.some(pictures.train, 10_000))
        print(found.explanation)
        changes |= {"sigma_max": found.noise.sigma_max, "sigma_min": found.noise.sigma_min, "eps": found.eps}
        if given.sampler == "annealed":
            changes |= {"levels": found.noise.levels, "langevin_steps": found.steps}
    if given.minutes is None and given.steps is None:
        changes["minutes"] = 10.0
    settings = replace(given, **changes)  # type: ignore[arg-type]
    facts = replace(Facts.of(pictures.train, pictures.statistics[1]), n=pictures.n)
    method = METHODS[settings.sampler]
    values = {f.name: getattr(settings, f.name) for f in fields(Images)}
    values["classes"] = settings.classes and settings.network == "unet" and rules.classes(pictures.labels)
    if settings.classes and pictures.labels is not None and not values["classes"]:
        why = "only unet can" if settings.network != "unet" else f"two of {rules.PER_CLASS} images each are needed"
        print(f"{len(pictures.labels.names)} classes, {pictures.n:,} training images: not told apart, {why}")
    values |= shape_of(settings, facts, device) | noise_of(settings, facts, classes=bool(values["classes"]))
    values |= {
        "langevin_steps": settings.langevin_steps or method.steps,
        "guidance": 1.0 if settings.guidance == "chosen" and method.guided_from == math.inf else settings.guidance,
    }
    resolved = ResolvedImages(**values)
    if settings.posterior_above is not None or pictures.shards is not None:
        return resolved
    network = recipes(resolved, pictures)[0].build().network
    asked = replace(facts, n=2 * facts.n) if settings.flip else facts  # the mirrored images, too
    return replace(resolved, posterior_above=asked.posterior_above(network, proposal(resolved)))


def shape_of(settings: Images, facts: Facts, device: torch.device) -> dict[str, object]:
    """The network's widths and the batch size: those given, or what suits this machine, budget and data."""
    seconds = None if settings.minutes is None else 60 * settings.minutes
    speed = rules.speed(device)
    widths = rules.channels(facts.shape, speed, seconds) if settings.network == "unet" else (64,)
    widths = settings.channels or widths
    size = settings.batch_size or rules.batch_size(rules.seen(facts.shape, widths[0], speed, seconds))
    size = min(size, facts.n)
    if settings.network == "unet" and settings.channels is None and widths[0] < rules.WIDTHS[0]:
        print(
            f"--channels {' '.join(map(str, widths))} --batch-size {size}: a wider network would see too few images "
            f"of {facts.shape[1]} x {facts.shape[2]} pixels on this machine in this time"
        )
    return {"channels": widths, "batch_size": size}


def noise_of(settings: Images, facts: Facts, *, classes: bool) -> dict[str, object]:
    """The noise levels to learn and to descend: those given, or what suits the data, with or without ``classes``."""

    def chosen(value: float | None, rule: float) -> float:
        return rule if value is None else value

    top, bottom = chosen(settings.sigma_max, facts.sigma_max), chosen(settings.sigma_min, facts.sigma_min)
    return {
        "sigma_max": top,
        "sigma_min": bottom,
        "log_sigma_mean": chosen(settings.log_sigma_mean, facts.log_sigma_mean),
        "posterior_above": chosen(settings.posterior_above, top),
        # Under the geometric proposal they are those to learn, too.
        "levels": settings.levels
        or rules.levels(settings.sampler, top, bottom, classes=classes and settings.proposal != "geometric"),
        "eps": chosen(settings.eps, bottom**2 / 2),
    }


def network_arguments(settings: ResolvedImages, image_channels: int, classes: int) -> dict[str, Argument]:
    """What the network is built with."""
    widths = settings.channels
    if settings.network == "unet":
        unet: dict[str, Argument] = {
            "image_channels": image_channels,
            "channels": widths,
            "blocks": settings.blocks,
            "features": widths[0],
        }
        return unet | {"classes": classes} if classes else unet
    # Under Karras' preconditioning NCSN's network is told every σ, and sees what is standardised already.
    told: dict[str, Argument] = {"features": 128, "rescale": False} if settings.network == "refinenet" else {}
    return {"image_channels": image_channels, "width": widths[0]} | told


def proposal(settings: ResolvedImages) -> Proposal:
    """Where training draws its noise levels from."""
    top, bottom = settings.sigma_max, settings.sigma_min
    if settings.proposal == "lognormal":
        return LogNormal(settings.log_sigma_mean, settings.log_sigma_std, top, bottom)
    return LogUniform(top, bottom) if settings.proposal == "loguniform" else Geometric(top, bottom, settings.levels)


def recipes(settings: ResolvedImages, pictures: Pictures) -> tuple[Recipe, Recipe | None]:
    """Which network learns, and how it will be sampled; and its guide: half as wide, one block at each resolution.

    None where there are classes: without the class, the network itself is the better guide, and costs no training.
    """
    shares = pictures.labels.shares if settings.classes and pictures.labels is not None else {}
    recipe = Recipe(
        depth=pictures.depth,
        network=NETWORKS[settings.network],
        arguments=network_arguments(settings, pictures.shape[0], len(shares)),
        preconditioning="scaled" if settings.network == "refinenet-v2" else "karras",
        shape=pictures.shape,
        shares=shares,
        sampling=Sampling(
            sigma_max=settings.sigma_max,
            sigma_min=settings.sigma_min,
            sampler=settings.sampler,
            levels=settings.levels if settings.sampler != "langevin" else 1,
            steps=settings.langevin_steps,
            eps=settings.eps,
            guidance=1.0 if settings.guidance == "chosen" else settings.guidance,
            guided_between=rules.guided_between(settings.log_sigma_mean),
            guide="unconditional" if shares else "smaller",
        ),
    )
    if settings.guidance == 1 or shares:
        return recipe, None
    smaller = replace(settings, channels=rules.halved(settings.channels), blocks=1)
    arguments = network_arguments(smaller, pictures.shape[0], len(shares))
    return recipe, replace(recipe, arguments=arguments, sampling=recipe.sampling.but(guidance=1.0))
