"""Whether the tests notice: small changes are made to the package's modules, one at a time.

python scripts/mutants.py [MODULE ...] [--number 8] [--seed 0]

The changes are cosmic-ray's, drawn evenly from all that its operators below can make of a module, but for raise
statements and for what changes no number.  The tests run in a copy of the tree.  Each mutant has a process of its own,
forked from one that has imported torch, because importing it takes longer than most tests: that is all that is not
cosmic-ray's.  (mutmut leaves decorated functions alone, and so every sampler, which torch.no_grad decorates.)
"""

import argparse
import ast
import difflib
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator

ROOT = Path(__file__).resolve().parents[1]
ALSO = {
    "samplers": "randomness",
    "objectives": "randomness",
    "likelihood": "randomness",
    "problems": "randomness",
    "score": "run objectives",
    "training": "muon record randomness",
    "run": "samplers randomness",
}
"""Tests that concern a module beside those that are named after it."""
BINARY = "Add_Sub Sub_Add Mul_Div Mul_Add Div_Mul Pow_Mul Pow_Div Mod_Mul FloorDiv_Mul BitAnd_BitOr"
COMPARISON = "Lt_LtE Lt_Gt LtE_Lt LtE_Gt Gt_GtE Gt_Lt GtE_Gt GtE_Lt Eq_NotEq NotEq_Eq Is_IsNot IsNot_Is"
OPERATORS = (
    *(f"ReplaceBinaryOperator_{kind}" for kind in BINARY.split()),
    *(f"ReplaceComparisonOperator_{kind}" for kind in COMPARISON.split()),
    *(f"ReplaceUnaryOperator_Delete_{kind}" for kind in ("USub", "Not", "Invert")),
    *("ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
    *("NumberReplacer", "ZeroIterationForLoop"),
)
HEAVY = ("beartype", "hypothesis", "jaxtyping", "pytest", "scipy.integrate", "scipy.stats", "torch")
OPTIONS = (
    "-x -q -p no:xdist -p no:cacheprovider -o addopts= --hypothesis-seed=0 -W ignore::pytest.PytestAssertRewriteWarning"
)
SLACK = 30.0  # seconds that a mutant may take beyond three times what the tests take


def tests_of(module: str) -> list[str]:
    """The test files of a module: those of its name, or else those of the folder that it lies in."""
    folder, _, name = module.rpartition("/")
    for pattern in (f"test_{folder}_{name}.py", f"test_{name}*.py", f"test_{folder}*.py"):
        if found := sorted(map(str, Path("tests").glob(pattern))):
            break
    return [*found, *(f"tests/test_{other}.py" for other in ALSO.get(module, "").split())]


def mutants(source: str) -> Iterator[str]:
    """Every mutant of a module, in a fixed order."""
    messages = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Raise)]
    lines = {i for n in messages for i in range(n.lineno, (n.end_lineno or n.lineno) + 1)}
    nodes = list(ast_nodes(get_ast(source)))
    for name in OPERATORS:
        operator = get_operator(f"core/{name}")()
        places = [(node, line) for node in nodes for (line, _), _ in operator.mutation_positions(node)]
        for occurrence, (node, line) in enumerate(places):
            changed = None if silent(node) or line in lines else mutate_code(source, operator, occurrence)
            if changed is not None:
                yield changed


def silent(node: Any) -> bool:
    """Whether it only says what is allowed: the star before keywords, and the ``strict`` of a zip."""
    parent = node.parent
    if parent is None or parent.type == "parameters":
        return parent is not None
    return parent.type == "argument" and getattr(parent.children[0], "value", "") == "strict"


def run_tests(tests: list[str], limit: float) -> tuple[bool, float]:
    """Whether the tests pass within ``limit`` seconds, in a process of their own; and how long that took."""
    began = time.monotonic()
    if (child := os.fork()) == 0:
        os.setsid()
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        import pytest

        os._exit(int(pytest.main([*OPTIONS.split(), *tests])) and 1)
    while time.monotonic() - began < limit:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0, time.monotonic() - began
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False, limit


def survey(module: str, number: int, seed: int) -> tuple[int, int]:
    """How many of ``number`` mutants of a module were killed, and how many there were; survivors are printed."""
    path, tests = Path("src") / "ncsn" / f"{module}.py", tests_of(module)
    source = path.read_text()
    possible = sorted(set(mutants(source)))
    chosen = random.Random(f"{seed} {module}").sample(possible, min(number, len(possible)))
    passed, seconds = run_tests(tests, 600.0)
    if not passed:
        raise SystemExit(f"{module}: the tests fail without any change: {' '.join(tests)}")
    killed = 0
    for mutant in chosen:
        path.write_text(mutant)
        survived, _ = run_tests(tests, 3 * seconds + SLACK)
        killed += not survived
        if survived:
            lines = difflib.unified_diff(source.splitlines(), mutant.splitlines(), n=0, lineterm="")
            print(f"survived: {module}", *[line for line in lines if line[:3] not in ("---", "+++")], sep="\n")
    path.write_text(source)
    print(f"{module}: {killed} of {len(chosen)} killed, of {len(possible)} possible", flush=True)
    return killed, len(chosen)


def main() -> None:
    """Survey the modules that are asked for, or all; the exit status is 1 where fewer than 85 % are killed."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="such as noise or data/sources (default: all)")
    parser.add_argument("--number", type=int, default=8, help="mutants of each module (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="which they are (default: 0)")
    options: Any = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    sys.dont_write_bytecode = True  # a mutant of the same length and second would pass for the module
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(shutil.copytree(ROOT, Path(folder) / "ncsn", ignore=shutil.ignore_patterns(".*", "build", "runs")))
        package = Path("src") / "ncsn"
        modules = [str(path.relative_to(package).with_suffix("")) for path in sorted(package.rglob("[a-z]*.py"))]
        if unknown := set(options.modules) - set(modules):
            parser.error(f"MODULE is {', '.join(unknown)}; allowed are {', '.join(modules)}")
        sys.path[:0] = [str(Path("src").absolute())]
        for name in HEAVY:
            importlib.import_module(name)
        counts = [survey(name, options.number, options.seed) for name in options.modules or modules]
    killed, total = (sum(column) for column in zip(*counts, strict=True))
    print(f"total: {killed} of {total} killed, {killed / total:.0%}; {time.monotonic() - began:.0f} s")
    sys.exit(killed < 0.85 * total)


if __name__ == "__main__":
    main()
