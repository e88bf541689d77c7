"""``ncsn info``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro


def pairs(content: dict[str, Any]) -> str:
    """``name=value`` for each item, floats shortened."""
    return ", ".join(f"{k}={f'{v:.4g}' if isinstance(v, float) else v}" for k, v in content.items())


@dataclass(frozen=True, kw_only=True)
class Info:
    """Say what a run is: its experiment, network, noise levels, sampler and numbers."""

    run: tyro.conf.Positional[Path]
    """The run's folder, such as runs/mnist; or mnist, the model that comes with the package."""

    def __call__(self) -> None:
        """Print what the run's folder says."""
        from ncsn import runs

        folder = runs.find(self.run)
        config, recipe, score = runs.read_config(folder), runs.read_recipe(folder), runs.load(folder)
        parameters, guide = sum(p.numel() for p in score.parameters()), runs.load_guide(folder)
        rows = {
            "run": self.run,
            "experiment": config["experiment"],
            "network": f"{recipe.network}({pairs(recipe.arguments)}), {parameters:,} parameters",
            "data": f"shape {recipe.shape}, mean {score.data_mean.mean():.4g}, std {score.data_std:.4g}",
            "noise": f"σ from {recipe.sigma_max:g} to {recipe.sigma_min:g}",
            "sampler": f"{recipe.sampler} on {len(recipe.ladder())} noise levels",
            "guidance": f"{recipe.guidance:g}, by a guide of {sum(p.numel() for p in guide.parameters()):,} parameters"
            if guide is not None
            else "none",
            "settings": pairs(config["settings"]),
            "results": pairs({k: v for k, v in runs.read_results(folder).items() if not isinstance(v, list | dict)}),
        }
        for name, value in rows.items():
            print(f"{name:<11} {value}")
