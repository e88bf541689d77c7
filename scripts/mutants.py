"""Whether the tests notice: small changes are made to the modules where numbers are made, one at a time.

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
TESTS = {
    "noise": "noise randomness",
    "samplers/langevin": "samplers randomness",
    "samplers/flow": "samplers samplers_against_diffusers randomness",
    "samplers/methods": "sampling",
    "samplers/step": "samplers",
    "score": "score",
    "preconditioning": "recipe score objectives",
    "objectives": "objectives randomness",
    "likelihood": "likelihood randomness",
    "problems": "problems randomness",
    "evaluation/metrics": "metrics randomness",
    "evaluation/report": "evaluation",
    "evaluation/features": "evaluation",
    "sampling": "sampling",
    "optimizers": "optimizers",
    "units": "units",
    "pixels": "data",
    "regions": "regions",
    "run": "run",
}
"""The modules, and the test files that concern them."""

BINARY = "Add_Sub Sub_Add Mul_Div Mul_Add Div_Mul Pow_Mul Pow_Div Mod_Mul FloorDiv_Mul BitAnd_BitOr"
COMPARISON = "Lt_LtE Lt_Gt LtE_Lt LtE_Gt Gt_GtE Gt_Lt GtE_Gt GtE_Lt Eq_NotEq NotEq_Eq Is_IsNot IsNot_Is"
OPERATORS = (
    *(f"core/ReplaceBinaryOperator_{kind}" for kind in BINARY.split()),
    *(f"core/ReplaceComparisonOperator_{kind}" for kind in COMPARISON.split()),
    *(f"core/ReplaceUnaryOperator_Delete_{kind}" for kind in ("USub", "Not", "Invert")),
    *("core/ReplaceTrueWithFalse", "core/ReplaceFalseWithTrue", "core/ReplaceAndWithOr", "core/ReplaceOrWithAnd"),
    *("core/NumberReplacer", "core/ZeroIterationForLoop"),
)
HEAVY = ("beartype", "hypothesis", "jaxtyping", "pytest", "scipy.integrate", "scipy.stats", "torch", "torchvision")
OPTIONS = (
    "-x -q -p no:xdist -p no:cacheprovider -o addopts= --hypothesis-seed=0 -W ignore::pytest.PytestAssertRewriteWarning"
)
SLACK = 30.0  # seconds that a mutant may take beyond three times what the tests take


def mutants(source: str) -> Iterator[str]:
    """Every mutant of a module, in a fixed order."""
    messages = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Raise)]
    lines = {i for n in messages for i in range(n.lineno, (n.end_lineno or n.lineno) + 1)}
    nodes = list(ast_nodes(get_ast(source)))
    for name in OPERATORS:
        operator = get_operator(name)()
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
    child = os.fork()
    if child == 0:
        os.setsid()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
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


def changes(before: str, after: str) -> str:
    """The lines that differ."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return "\n".join(line for line in lines if not line.startswith(("---", "+++")))


def survey(module: str, copy: Path, number: int, seed: int) -> tuple[int, int]:
    """How many of ``number`` mutants of a module were killed, and how many there were; survivors are printed."""
    path = copy / "src" / "ncsn" / f"{module}.py"
    tests = [f"tests/test_{name}.py" for name in TESTS[module].split()]
    source, possible = path.read_text(), sorted(set(mutants(path.read_text())))
    chosen = random.Random(f"{seed} {module}").sample(possible, min(number, len(possible)))
    passed, seconds = run_tests(tests, 600.0)
    if not passed:
        raise SystemExit(f"{module}: the tests fail without any change")
    killed = 0
    for mutant in chosen:
        path.write_text(mutant)
        survived, _ = run_tests(tests, 3 * seconds + SLACK)
        killed += not survived
        if survived:
            print(f"survived: {module}\n{changes(source, mutant)}", flush=True)
    path.write_text(source)
    print(f"{module}: {killed} of {len(chosen)} killed, of {len(possible)} possible", flush=True)
    return killed, len(chosen)


def main() -> None:
    """Survey the modules that are asked for, or all; the exit status is 1 where fewer than 85 % are killed."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"one or more of {', '.join(TESTS)}")
    parser.add_argument("--number", type=int, default=8, help="mutants of each module (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="which they are (default: 0)")
    options: Any = parser.parse_args()
    if unknown := [name for name in options.modules if name not in TESTS]:
        parser.error(f"MODULE is {', '.join(unknown)}; allowed are {', '.join(TESTS)}")
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    sys.dont_write_bytecode = True  # a mutant of the same length and second would pass for the module
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "ncsn"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "build", "runs", "__pycache__"))
        os.chdir(copy)
        sys.path[:0] = [str(copy / "src")]
        for name in HEAVY:
            importlib.import_module(name)
        counts = [survey(name, copy, options.number, options.seed) for name in options.modules or TESTS]
    killed, total = (sum(column) for column in zip(*counts, strict=True))
    print(f"total: {killed} of {total} killed, {killed / total:.0%}; {time.monotonic() - began:.0f} s")
    sys.exit(killed < 0.85 * total)


if __name__ == "__main__":
    main()
