"""Side by side: every peer trains for the same minutes on this machine, and all are judged by the same ruler.

python benchmarks/bench.py                                  # all of them on MNIST, ten minutes each
python benchmarks/bench.py --dataset cifar10.zip --minutes 30 --peers ours azula diffusers denoising-diffusion-pytorch
python benchmarks/bench.py --minutes 2 --peers reference    # one of them, quickly
python benchmarks/bench.py --peers                          # only draw the table and the plot again

The peers' libraries come with `pip install .[bench]`.  Results are added to benchmarks/results.json; the table and the
plot in benchmarks/README.md are made from that file.
"""

import json
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import matplotlib.pyplot as plt
import torch
import tyro
from matplotlib.ticker import FormatStrFormatter
from peers import PEERS, UNTOLD
from tqdm import tqdm

from ncsn import batches, evaluation, load, load_dataset
from ncsn.batching import quantize
from ncsn.machine import hardware
from ncsn.machine.messages import refresh_interval

HERE = Path(__file__).parent
Name = Literal["ours", "reference", "diffusers", "azula", "denoising-diffusion-pytorch"]
MARKS = ("<!-- table -->", "<!-- end of table -->")
SPEEDS = "training_images_per_second", "sampling_images_per_second"
PANELS = {  # of the picture: data, processor, minutes before the longest, and whether there were labels
    "MNIST, 10 minutes, with labels": ("mnist", "AMX", -10.0, True),
    "MNIST, 10 minutes, without labels": ("mnist", "AMX", -10.0, False),
    "Half of CIFAR-10, 30 minutes, with labels": ("cifar10", "AVX512-BF16", -30.0, True),
    "Half of CIFAR-10, 30 minutes, without labels": ("cifar10", "AVX512-BF16", -30.0, False),
}
LABELS = {"ours": "ncsn", "reference": "NCSN, tutorial style"}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Train peers under one wall-clock budget, and judge their samples beside ours."""

    dataset: str = "mnist"
    """What to learn: as for `ncsn train`; square images."""
    minutes: float = 10.0
    """Wall clock of each training, compilation included."""
    peers: tuple[Name, ...] = get_args(Name)
    sampling_minutes: float = 15.0
    """A peer that needs longer for 10,000 samples is judged on as many as it draws in this time."""
    classes: bool = True
    """Tell every peer that can use them the classes of the images, and draw them by their shares."""
    seed: int = 0
    out: Path = Path("runs/bench")
    """Where our runs go."""


def ours(bench: Bench, out: Path) -> dict[str, Any]:
    """The default command, then ``ncsn evaluate``."""
    command = [sys.executable, "-m", "ncsn"]
    untold = () if bench.classes else ("--no-classes",)
    train = [*command, "train", bench.dataset, "--seed", str(bench.seed), *untold, "--overwrite"]
    subprocess.run([*train, "--minutes", str(bench.minutes), "--out", str(out)], check=True)
    subprocess.run([*command, "evaluate", str(out), "--seed", str(bench.seed), "--overwrite"], check=True)
    return row_of(out)


def row_of(out: Path) -> dict[str, Any]:
    """What a run that was evaluated says of itself."""
    run, facts = load(out), json.loads((out / "metrics.json").read_text())
    report: dict[str, Any] = json.loads((out / "evaluation.json").read_text())
    report.pop("source")  # a folder of this machine
    sampling = report.pop("sampling")
    report |= {
        "about": f"the default of `ncsn train`, {sampling['sampler']}, guidance {sampling['guidance']:g}",
        "told_classes": bool(run.recipe.shares),
        "parameters": run.parameters + sum(p.numel() for p in getattr(run.guide, "parameters", list)()),
        "images_seen": facts["images_seen"],
        "training_images_per_second": facts["images_seen"] / facts["training_seconds"],
        "sampling_images_per_second": report["n"] / report["sampling_seconds"],
    }
    return report


def peer(name: str, bench: Bench) -> dict[str, Any]:
    """Train a peer until its minutes are spent, sample for as long as it may, and judge."""
    hardware.keep_memory()
    torch.set_flush_denormal(True)
    torch.manual_seed(bench.seed)
    generator, images = torch.Generator().manual_seed(bench.seed), load_dataset(bench.dataset)
    labels = images.labels if bench.classes else None
    made = PEERS[name](images.shape, 0 if labels is None else len(labels.names))
    most = min(10_000, len(images.test), len(images.validation))  # as many as there are real images to judge by
    known = labels.train if labels is not None and made.classes else None
    seconds, began, durations = bench.minutes * 60, time.perf_counter(), []
    with tqdm(total=seconds, unit="s", desc=name, mininterval=refresh_interval()) as bar:
        for drawn in batches(images.train, made.batch_size, known, generator=generator):
            at = time.perf_counter()
            if at - began > seconds:
                break
            loss = made.step(drawn.x, (at - began) / seconds, drawn.label)
            durations.append(time.perf_counter() - at)
            bar.set_postfix_str(f"loss {loss.item():.4f}", refresh=False)
            bar.update(min(time.perf_counter() - began, seconds) - bar.n)
    batch, began = 250, time.perf_counter()
    parts: list[torch.Tensor] = []
    with torch.no_grad(), tqdm(total=most, unit="image", mininterval=refresh_interval()) as bar:
        while len(parts) * batch < most and time.perf_counter() - began < bench.sampling_minutes * 60:
            label = None if known is None else known[torch.randint(len(known), (batch,), generator=generator)]
            parts.append(quantize(made.sample(batch, generator, label)))
            bar.update(batch)
    seconds, samples = time.perf_counter() - began, torch.cat(parts)[:most]
    return {
        "about": made.about,
        "told_classes": known is not None,
        "parameters": made.parameters,
        "images_seen": len(durations) * made.batch_size,
        "training_images_per_second": made.batch_size / statistics.median(durations),
        "sampling_images_per_second": len(samples) / seconds,
        "sampling_seconds": seconds,
        "nfe": made.nfe,
        **evaluation.evaluate(samples, images, evaluation.choose(images)).report(),
    }


def over_ours(row: dict[str, Any], own: dict[str, Any]) -> float:
    """A row's Fréchet distance over ours with as many samples: with fewer of them it is larger, as real images' is.

    What fewer samples add is taken from as many training images: up to 7 % off, where 500 to 2,250 of ours were judged.
    """
    theirs, ours = (each["metrics"]["frechet_distance"] for each in (row, own))
    distance: float = theirs["generated"] / (ours["generated"] + theirs["training"] - ours["training"])
    return distance


def table(results: list[dict[str, Any]]) -> str:
    """All results as Markdown, the longest budgets first; speeds are ratios to ours."""
    lines = [
        "| comparison | package | Fréchet distance (held out, training) | n | times ours "
        "| training speed | sampling speed |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    nearest = sorted(results, key=lambda row: row["metrics"]["frechet_distance"]["generated"])
    for row in sorted(nearest, key=lambda row: (row["data"] != "mnist", *key_of(row))):
        own = beside(row, results)
        fd = row["metrics"]["frechet_distance"]
        over, training, sampling = "–", "–", "–"
        if own is not None:
            over = f"{over_ours(row, own):.2g}"
            training, sampling = (f"{row[speed] / own[speed]:.2f}" for speed in SPEEDS)
        # Early rows have one floor only.
        floors = ", ".join(f"{fd[kind]:.2f}" if kind in fd else "–" for kind in ("held_out", "training"))
        labels = "labels" if row["told_classes"] else "no labels"
        lines.append(
            f"| {row['data']}, {row['processor']}, {row['minutes']:g} minutes, {labels} | {row['peer']} "
            f"| {fd['generated']:.2f} ({floors}) | {row['n']:,} | **{over}** | {training} | {sampling} |"
        )
    return "\n".join(lines)


def processor() -> str:
    """The processor's fastest matrix instructions, which decide how much a training learns in a minute."""
    kinds = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "avx512_f": "AVX512", "avx2": "AVX2"}
    found = [kind for capability, kind in kinds.items() if torch.cpu.get_capabilities().get(capability)]
    return (found or [platform.machine()])[0]


def key_of(row: dict[str, Any]) -> tuple[str, str, float, bool]:
    """What comparable rows have in common: data, processor, budget, and whether there were labels."""
    return row["data"], row["processor"], -row["minutes"], row["told_classes"]


def beside(row: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Our row to compare with, if any: with the same key, or for packages without labels, the same budget."""
    own = [r for r in results if r["peer"] == "ours" and key_of(r)[:3] == key_of(row)[:3]]
    alike = [r for r in own if r["told_classes"] == row["told_classes"]]
    return next(iter(alike or (own if row["peer"] in UNTOLD else [])), None)


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Each package's Fréchet distance over ours, with a panel per comparison."""
    panels = {title: [row for row in results if key_of(row) == key] for title, key in PANELS.items()}
    heights = [len(rows) for rows in panels.values()]
    figure, axes = plt.subplots(
        len(panels), figsize=(7, 5.5), layout="constrained", height_ratios=heights, sharex=True, squeeze=False
    )
    for panel, (title, rows) in zip(axes[:, 0], panels.items(), strict=True):
        own = next(row for row in rows if row["peer"] == "ours")
        ratios = {LABELS.get(row["peer"], row["peer"]): over_ours(row, own) for row in rows}
        names = sorted(ratios, key=ratios.__getitem__, reverse=True)
        panel.hlines(names, 1, [ratios[name] for name in names], color="#8d99ae")
        panel.plot([ratios[name] for name in names], names, "o", color="#30638e")
        for name in names:
            panel.annotate(f"{ratios[name]:.2g}", (ratios[name], name), (6, -4), textcoords="offset points")
        panel.set_title(title, loc="left", size=10)
        panel.set(xscale="log", xlim=(0.9, 100), ylim=(-0.6, len(names) - 0.4))
        panel.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel("Fréchet distance, in multiples of ncsn's (less is better)")
    axes[-1, 0].xaxis.set_major_formatter(FormatStrFormatter("%g"))
    figure.savefig(path, dpi=160)
    plt.close(figure)


def main(bench: Bench) -> None:
    """Run, record, and draw."""
    path = HERE / "results.json"
    results: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    dataset = load_dataset(bench.dataset)
    for name in bench.peers:
        out = bench.out / f"{dataset.name}-{name}-{bench.minutes:g}{'' if bench.classes else '-no-classes'}"
        out.mkdir(parents=True, exist_ok=True)
        row = ours(bench, out) if name == "ours" else peer(name, bench)
        common = {"peer": name, "minutes": bench.minutes, "seed": bench.seed, "processor": processor()}
        row = {**common, **row, "data": dataset.name}
        results = [r for r in results if r["peer"] != name or key_of(r) != key_of(row)] + [row]
        path.write_text(json.dumps(results, indent=1) + "\n")
    text = (HERE / "README.md").read_text(encoding="utf-8")
    before, after = text.split(MARKS[0])[0], text.split(MARKS[1])[1]
    (HERE / "README.md").write_text(f"{before}{MARKS[0]}\n{table(results)}\n{MARKS[1]}{after}", encoding="utf-8")
    plot(results, HERE / "benchmark.png")
    print(table(results))


if __name__ == "__main__":
    main(tyro.cli(Bench))
