"""``ncsn info``."""

from collections.abc import Mapping
from dataclasses import dataclass

from ncsn.cli.options import OfRun


def pairs(content: Mapping[str, object]) -> str:
    """``name=value`` for each item, floats shortened."""
    return ", ".join(f"{k}={f'{v:.4g}' if isinstance(v, float) else v}" for k, v in content.items())


@dataclass(frozen=True, kw_only=True)
class Info(OfRun):
    """Say what a run is: its experiment, network, noise levels, sampler and numbers."""

    def __call__(self) -> None:
        """Print what the run's folder says."""
        import ncsn
        from ncsn import storage

        folder = storage.find(self.run)
        run = ncsn.load(folder, device=self.device)
        recipe, sampling, model = run.recipe, run.recipe.sampling, run.model
        results = storage.read_results(folder)
        if sampling.guide == "unconditional":
            guide = f"{sampling.guidance:g}, by the network's own score without the class"
        else:
            by = f"{sampling.guidance:g}, by a guide of {run.guide_parameters:,} weights"
            guide = "none" if run.guide is None else by
        rows = {
            "run": self.run,
            "experiment": run.experiment,
            "network": f"{recipe.network}({pairs(recipe.arguments)}), {run.parameters:,} weights",
            "data": f"shape {recipe.shape}, mean {model.data_mean.mean():.4g}, std {model.data_std:.4g}",
            "classes": recipe.named if recipe.classes else "none",
            "noise": f"σ from {sampling.sigma_max:g} to {sampling.sigma_min:g}",
            "sampler": f"{sampling.sampler} on {sampling.count} noise levels, {sampling.nfe} evaluations",
            "guidance": guide,
            "settings": pairs(run.settings),
            "results": pairs({k: v for k, v in results.items() if not isinstance(v, list | dict)}),
        }
        for name, value in rows.items():
            print(f"{name:<11} {value}")
