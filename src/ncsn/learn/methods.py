"""Methods: sets of defaults for training and sampling, from the paper's to today's.

``--method`` chooses one.  Whatever else is given replaces its defaults, but the papers' methods never learn classes.
"""

from dataclasses import dataclass, fields, replace
from typing import Literal

from ncsn.batching import reals
from ncsn.data.dataset import Dataset
from ncsn.noise import suggest_noise
from ncsn.settings import MethodName, OptimizerName, PreconditioningOption, ProposalName, ScheduleName, TrainSettings
from ncsn.validation import SamplerName

EXAMPLES_FOR_DISTANCE = 2000  # among which the largest distance is looked for


@dataclass(frozen=True, kw_only=True)
class Method:
    """The defaults of a method, by the names of the settings; None leaves a setting to the rules of ``learn.rules``.

    ``classes``: whether the network learns classes.
    ``prior``: whether a training on few images starts from the packaged prior.
    ``posterior_targets``: whether training uses posterior targets at high noise.
    ``images_per_channel``: how many images the U-Net must see, at least, for each channel of its finest resolution.
    """

    preconditioning: PreconditioningOption
    optimizer: OptimizerName
    adam_rate: float
    schedule: ScheduleName
    proposal: ProposalName
    sampler: SamplerName
    guidance: float | Literal["chosen"] = 1.0
    sigma_max: float | None = None
    sigma_min: float | None = None
    levels: int | None = None
    langevin_steps: int | None = None
    eps: float | None = None
    classes: bool = False
    prior: bool = False
    posterior_targets: bool = False
    images_per_channel: int = 2200


METHODS: dict[MethodName, Method] = {
    "edm": Method(
        preconditioning="edm",
        optimizer="muon",
        adam_rate=2e-3,
        schedule="linear",
        proposal="lognormal",
        sampler="dpmpp-sde",
        guidance="chosen",
        classes=True,
        prior=True,
        posterior_targets=True,
    ),
    # Song & Ermon 2019 (arXiv:1907.05600), section 5 and appendix B.
    "ncsn": Method(
        preconditioning="plain",
        optimizer="adam",
        adam_rate=1e-3,
        schedule="constant",
        proposal="geometric",
        sampler="ncsn",
        sigma_max=1.0,
        sigma_min=0.01,
        levels=10,
        langevin_steps=100,
        eps=2e-5,
        images_per_channel=7000,  # after fewer, MNIST's samples are specks; a narrower network draws digits
    ),
    # Song & Ermon 2020 (arXiv:2006.09011), whose techniques 1, 2 and 4 follow from the data, see ``ncsnv2_levels``.
    "ncsnv2": Method(
        preconditioning="scaled",
        optimizer="adam",
        adam_rate=1e-4,
        schedule="constant",
        proposal="geometric",
        sampler="ncsnv2",
        sigma_min=0.01,
        langevin_steps=5,
    ),
}


def apply_method(settings: TrainSettings, data: Dataset) -> TrainSettings:
    """The settings with the defaults of their method for what isn't given.

    Raises ValueError for a method that doesn't apply to the data.
    """
    method = METHODS[settings.method]
    defaults = {field.name: getattr(method, field.name) for field in fields(method) if hasattr(settings, field.name)}
    missing = {name: value for name, value in defaults.items() if getattr(settings, name) is None}
    if settings.sampler not in (None, method.sampler):  # the steps of another sampler are its own
        missing = {name: value for name, value in missing.items() if name not in ("langevin_steps", "eps")}
    settings = replace(settings, **missing)
    if settings.method == "ncsnv2":
        settings = ncsnv2_levels(settings, data)
    return settings if method.classes else replace(settings, class_conditional=False)


def ncsnv2_levels(settings: TrainSettings, data: Dataset) -> TrainSettings:
    """The settings with the noise levels and the step size of NCSNv2's techniques 1, 2 and 4, unless they are given."""
    steps = settings.langevin_steps or 5
    suggestion = suggest_noise(reals(data.train[:EXAMPLES_FOR_DISTANCE]), sigma_min=settings.sigma_min, steps=steps)
    ladder = suggestion.noise
    is_of_method = settings.sampler == METHODS["ncsnv2"].sampler
    return replace(
        settings,
        sigma_max=settings.sigma_max or ladder.sigma_max,
        levels=settings.levels or ladder.levels,
        eps=settings.eps or (suggestion.eps if is_of_method else None),
    )
