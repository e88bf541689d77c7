"""The tables and the plot of docs/scaling.md, from what benchmarks/scaling.py has measured."""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from expected import Link, expectations, grid, limits
from scipy.stats import linregress

GROWING = ("training", "sampling", "data")  # the parts that are series


class Power(NamedTuple):
    """y ∝ x^``exponent``, by least squares of the logarithms.

    ``error``: its standard error.  ``last``: between the two largest points, where what does not grow matters least.
    """

    exponent: float
    error: float
    last: float


def power(x: list[float], y: list[float]) -> Power:
    """The exponent by which ``y`` grows with ``x``; at least two points of each, all positive, x ascending."""
    logs = np.log(x), np.log(y)
    line = linregress(*logs)
    return Power(line.slope, line.stderr, float(np.diff(logs[1])[-1] / np.diff(logs[0])[-1]))


def where(part: dict[str, Any]) -> str:
    """On what a part was measured."""
    machine = part["about"]
    return f"{machine['processors']} × {machine['processor']}, {machine['system']}, torch {machine['torch']}"


def short(number: float) -> str:
    """A number of seconds or bytes to two digits."""
    return f"{float(f'{number:.2g}'):g}"


def lines_of(part: dict[str, Any]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The points of each series."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in part["rows"]:
        found.setdefault((row["what"], row["by"]), []).append(row)
    return found


def growth(results: dict[str, Any]) -> str:
    """Exponents of time and of memory."""
    rows = []
    for part in GROWING:
        for (what, by), points in lines_of(results[part]).items() if part in results else ():
            x, seconds = [p["size"] for p in points], [statistics.median(p["seconds"]) for p in points]
            memory = [p["memory"] / 1e6 for p in points]
            time_by, memory_by = power(x, seconds), power(x, memory)
            rows.append(
                f"{what} | {by} | {x[0]:,} to {x[-1]:,} | {short(1e3 * seconds[0])} to {short(1e3 * seconds[-1])} "
                f"| {time_by.exponent:.2f} ± {time_by.error:.2f} | {time_by.last:.2f} | {points[0]['needed']} "
                f"| {memory[0]:,.0f} to {memory[-1]:,.0f} | {memory_by.exponent:.2f} ± {memory_by.error:.2f} "
                f"| {memory_by.last:.2f}"
            )
    head = "what | by | from, to | ms | exponent | of the last two | arithmetic | MB | exponent | of the last two"
    return grid(head, rows)


def drift(results: dict[str, Any]) -> str:
    """How much the same step differed between series."""
    parts = [part for part in GROWING if part in results]
    references = [seconds for part in parts for seconds in results[part]["reference"]]
    middle = statistics.median(references)
    return (
        f"The same training step, measured {len(references)} times between the series, took {1e3 * middle:.0f} ms in "
        f"the median, {min(references) / middle - 1:+.0%} to {max(references) / middle - 1:+.0%}. One thread; "
        f"{where(results[parts[0]])}."
    )


def spread(values: list[float]) -> str:
    """The median, the smallest and the largest."""
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


def together(results: dict[str, Any]) -> str:
    """One process of two threads beside two of one."""
    found: dict[bool, list[list[float]]] = {}
    rows = results["processes"]["rows"]
    for row in rows:
        found.setdefault(row["of"]["compile"], [[], []])[row["processes"] - 1].append(row["images_per_second"])
    message = statistics.median(row["message_seconds"] for row in rows if row["processes"] > 1)
    lines = []
    for compiled, (one, two) in found.items():
        ratio = statistics.median(two) / statistics.median(one)
        name = "compiled" if compiled else "not compiled"
        lines.append(f"{name} | {spread(one)} | {spread(two)} | {ratio - 1:+.1%}")
    table = grid("network | one process, two threads: images/s | two processes, one thread each | difference", lines)
    size_of = next(row["message_bytes"] for row in rows if row["processes"] > 1)
    said = f"The message of a step, {size_of / 1e6:.1f} MB from each process, takes {1e3 * message:.0f} ms of it. "
    said += f"{where(results['processes'])}."
    return f"{table}\n\n{said}"


def link_of(rows: list[dict[str, Any]]) -> Link:
    """What two machines' messages of several sizes say of the wire, by least squares: seconds = 2α + S/β."""
    line = linregress([4 * row["numbers"] for row in rows], [row["seconds"] for row in rows])
    return Link("the slow wire", line.intercept / 2, 1 / line.slope, ring=True)


def wire_table(results: dict[str, Any]) -> str:
    """Messages over the slow wire, and the two numbers that describe them."""
    wire = results["wire"]
    lines = [
        f"{row['numbers']:,} | {4 * row['numbers'] / 1e6:.3g} | {row['bytes_on_the_wire'] / 1e6:.3g} "
        f"| {1e3 * row['seconds']:.0f}"
        for row in wire["rows"]
    ]
    link = link_of(wire["rows"])
    said = (
        f"Seconds = 2α + S/β with α = {1e3 * link.alpha:.1f} ms and β = {link.beta / 1e6:.0f} MB/s, of the wire's "
        f"{1e3 * wire['delay']:g} ms and {wire['bits_per_second'] / 8e6:g} MB/s. {where(wire)}."
    )
    head = "numbers | MB of each machine | MB on the wire, both ways together | ms"
    return f"{grid(head, lines)}\n\n{said}"


BESIDE = ("imports", "start-up", "checkpoints", "logging", "validation")  # what is no learning, and draws nothing


def overhead(results: dict[str, Any]) -> str:
    """The seconds of a run by what they were for: first what is ``BESIDE`` learning, and its sum."""
    found = results["overhead"]
    parts = {"imports": found["imports"]} | found["seconds_of"]
    whole = sum(parts.values())
    beside = {name: parts[name] for name in BESIDE}
    sums = {"**these together**": sum(beside.values())}
    if "compiling" in parts:
        beside_all = sum(beside.values()) + parts["compiling"]
        sums |= {"compiling": parts["compiling"], "**with compiling**": beside_all}
    others = {name: seconds for name, seconds in parts.items() if name not in (*beside, *sums)}
    rows = [f"{name} | {seconds:.1f} | {seconds / whole:.2%}" for name, seconds in (beside | sums | others).items()]
    return grid(f"of {found['minutes']:g} minutes on {found['dataset']} | seconds | share", rows)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "growth": lambda results: f"{growth(results)}\n\n{drift(results)}",
    "limits": lambda _: limits(),
    "processes": together,
    "wire": wire_table,
    "expectations": lambda results: expectations(link_of(results["wire"]["rows"])),
    "overhead": overhead,
}
MADE_OF: dict[str, tuple[str, ...]] = {"growth": GROWING, "limits": (), "expectations": ("wire",)}
"""The parts that a table is made of, one of them at least, if not that of its name."""


def written(text: str, results: dict[str, Any]) -> str:
    """The page with every table, whose measurements there are, between its marks.

    Raises ValueError if the page lacks one.
    """
    for name, table in TABLES.items():
        parts = MADE_OF.get(name, (name,))
        if parts and not any(part in results for part in parts):
            continue
        first, last = f"<!-- {name} -->", f"<!-- end of {name} -->"
        if first not in text or last not in text:
            raise ValueError(f"the page lacks the marks {first} and {last}")
        before, _, rest = text.partition(first)
        _, _, after = rest.partition(last)
        text = f"{before}{first}\n\n{table(results)}\n\n{last}{after}"
    return text


def plot(results: dict[str, Any], path: Path) -> None:
    """Every series beside its smallest point: times as long, times as much memory."""
    parts = [part for part in GROWING if part in results]
    figure, axes = plt.subplots(2, len(parts), figsize=(4.4 * len(parts), 7), layout="constrained", squeeze=False)
    for column, part in enumerate(parts):
        for (what, by), points in lines_of(results[part]).items():
            x = np.array([p["size"] for p in points]) / points[0]["size"]
            seconds = np.array([statistics.median(p["seconds"]) for p in points])
            low, high = (np.array([f(p["seconds"]) for p in points]) for f in (min, max))
            memory = np.array([p["memory"] for p in points])
            name = by if what in ("training step", "sampling") else f"{what}, {by}"
            (line,) = axes[0, column].plot(x, seconds / seconds[0], "o-", label=name, markersize=4)
            axes[0, column].fill_between(x, low / seconds[0], high / seconds[0], color=line.get_color(), alpha=0.15)
            axes[1, column].plot(x, memory / memory[0], "o-", color=line.get_color(), markersize=4)
        for row, name in enumerate(("time", "peak memory")):
            ax = axes[row, column]
            ends = np.array([1, 8])
            for exponent in (1, 2):
                ax.plot(ends, ends**exponent, ":", color="grey", linewidth=1)
                ax.annotate(f"x{'²' if exponent == 2 else ''}", (8, 8**exponent), color="grey", fontsize=9)
            ax.set(xscale="log", yscale="log", ylabel=f"{name}, beside the smallest", xlabel="times as large")
            ax.set_title(f"{part}: {name}", fontsize=10)
            ax.grid(which="both", alpha=0.2)
        axes[0, column].legend(fontsize=7, loc="upper left")
    figure.savefig(path, dpi=120)
    plt.close(figure)
