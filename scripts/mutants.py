"""Whether the tests notice: small changes are made to the package's modules, one at a time.

python scripts/mutants.py [MODULE ...] [--number 8] [--seed 0]

The changes are cosmic-ray's, drawn evenly from all that its operators below can make of a module.  Left out are raise
statements, and what has no right and wrong: the star before keywords, ``strict``, ``frozen`` and ``kw_only``; the far
ends of ranges (``le``), which would end the same mistakes if they were somewhere else; when a bar is shown; how large,
thick and bright a figure and its parts are; how long a process waits for another (``timedelta``); which fixed seed
there is; and how many rows ``split`` takes at a time.  Defaults are left out, too: a test compares them with the
reference.

First every test that is not marked slow runs once, and coverage.py notes which lines it runs.  Then each mutant meets
the tests that ran its line, and the others in their files, as far as a minute goes.  (A fixture that tests share runs
its lines in the first of them alone.)  A line that no test ran, as it runs on import, is every test's.  Tests of
documentation, examples and scripts are not asked.

The tests run in copies of the tree, one for each processor.  Each mutant has a process of its own, forked from one that
has imported torch, because importing it takes longer than most tests.  (mutmut leaves decorated functions alone, and so
every sampler, which torch.no_grad decorates.)
"""

import argparse
import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from coverage import Coverage

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path("src") / "ncsn"
BINARY = "Add_Sub Sub_Add Mul_Div Mul_Add Div_Mul Pow_Mul Pow_Div Mod_Mul FloorDiv_Mul BitAnd_BitOr"
COMPARISON = "Lt_LtE Lt_Gt LtE_Lt LtE_Gt Gt_GtE Gt_Lt GtE_Gt GtE_Lt Eq_NotEq NotEq_Eq Is_IsNot IsNot_Is"
OPERATORS = (
    *(f"ReplaceBinaryOperator_{kind}" for kind in BINARY.split()),
    *(f"ReplaceComparisonOperator_{kind}" for kind in COMPARISON.split()),
    *(f"ReplaceUnaryOperator_Delete_{kind}" for kind in ("USub", "Not", "Invert")),
    *("ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
    *("NumberReplacer", "ZeroIterationForLoop"),
)
# What nobody may do, the far ends of ranges, bars, fixed seeds, and the looks of figures.
SILENT = ("frozen", "kw_only", "strict", "le", "delay", "leave", "mininterval", "random_state")
LOOKS = ("dpi", "alpha", "ms", "lw", "linewidths", "markerscale", "framealpha", "fontsize", "shrink", "pad")
HEAVY = ("beartype.claw", "diffusers", "hypothesis", "matplotlib.pyplot", "onnxruntime", "pydantic", "torch", "tyro")
OPTIONS = "-x -q -p no:cacheprovider -p _hypothesis_pytestplugin -o addopts= --hypothesis-seed=0"
ELSEWHERE = ("docs", "examples", "scripts")  # tests of these are not asked
MOST = 60.0  # seconds of tests for a mutant

# A module, the operator, which of its places, the line, and the seconds of the tests that may notice.
Mutant = tuple[str, str, int, int, dict[str, float]]


class Watch:
    """A plugin of pytest that notes which lines each test runs, how long it takes, and how many fail."""

    def __init__(self) -> None:
        self.seconds = dict[str, float]()
        self.coverage = Coverage(data_file=None, include=[str(PACKAGE / "*")], config_file=False)
        self.coverage.start()

    def pytest_collection_finish(self) -> None:
        """What runs on import belongs to no test."""
        for module in modules():
            importlib.import_module(f"ncsn.{module.replace('/', '.')}")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Before a test and its fixtures."""
        self.coverage.switch_context(nodeid)
        self.seconds[nodeid] = -time.monotonic()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """After them."""
        self.seconds[nodeid] += time.monotonic()

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write what was noted."""
        self.coverage.stop()
        data = self.coverage.get_data()
        lines = {module: data.contexts_by_lineno(str(path.absolute())) for module, path in modules().items()}
        Path("watched.json").write_text(json.dumps([lines, self.seconds, session.testsfailed]))


class Choice:
    """A plugin of pytest that runs the tests which are chosen, in their order; an alarm ends one that hangs."""

    def __init__(self, tests: dict[str, float]) -> None:
        self.tests = tests

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """A mutant may give cases other names: they are no failures."""
        chosen = {item.nodeid: item for item in items if item.nodeid in self.tests}
        items[:] = [chosen[test] for test in self.tests if test in chosen]

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Nobody hears the alarm, so it ends the process: after three times the seconds that it took, and 30."""
        signal.alarm(30 + int(3 * self.tests[item.nodeid]))


def modules() -> dict[str, Path]:
    """The files of all modules by their names: noise, tables/columns."""
    return {str(path.relative_to(PACKAGE).with_suffix("")): path for path in sorted(PACKAGE.rglob("[a-z]*.py"))}


def places(source: str) -> list[tuple[str, int, int]]:
    """Where a module can be changed: the operator, which of its places, and the line."""
    nodes, found = list(ast_nodes(get_ast(source))), []
    for name in OPERATORS:
        operator = get_operator(f"core/{name}")()
        positions = [(node, line) for node in nodes for (line, _), _ in operator.mutation_positions(node)]
        found += [(name, number, line) for number, (node, line) in enumerate(positions) if not silent(node)]
    return found


def silent(node: Any) -> bool:
    """Whether it has no right and wrong, see above."""
    if node.parent is None or node.parent.type in ("parameters", "param", "annassign"):  # the star; and defaults
        return node.parent is not None
    while (parent := node.parent).type != "file_input":
        named = parent.type == "argument" and parent.children[0].get_code().strip() in (*SILENT, *LOOKS)
        call = parent.parent if parent.type == "arglist" else parent
        function = call.get_previous_sibling().get_code().strip() if call.type == "trailer" else ""
        fixed = node.type == "number" and function in (".manual_seed", ".split")
        if parent.type == "raise_stmt" or named or fixed or function in ("_figure", "timedelta"):
            return True
        node = parent
    return False


def chosen_tests(module: str, ran: dict[int, list[str]], line: int, seconds: dict[str, float]) -> dict[str, float]:
    """The tests that ran a line, and the others of their files; or all of them, if none did, because it runs on import,
    or in a program that a test starts: then first those whose file is named after the module.

    The fastest first, up to a minute.
    """
    near = set(ran.get(line, ())) - {""}
    named = {test for test in seconds if not near and test.startswith(f"tests/test_{module.rpartition('/')[2]}.py")}
    files = {test.partition("::")[0] for test in near or seconds}
    chosen: dict[str, float] = {}
    for test in sorted(seconds, key=lambda test: (test not in near, test not in named, seconds[test])):
        if test.partition("::")[0] in files and sum(chosen.values()) < MOST:
            chosen[test] = seconds[test]
    return chosen


def settle(folder: str) -> None:
    """Give this process a copy of the tree of its own."""
    os.chdir(tempfile.mkdtemp(dir=folder))
    for name in ("src", "tests", "web", "benchmarks", "scripts"):
        shutil.copytree(ROOT / name, name, ignore=shutil.ignore_patterns("node_modules"))
    for name in ("pyproject.toml", "training_toy.py", "training_MNIST.py"):
        shutil.copy(ROOT / name, name)
    os.environ["PYTHONPATH"] = str(Path("src").absolute())  # for what tests start
    sys.path[:0] = [os.environ["PYTHONPATH"], str(Path.cwd())]


def run_tests(files: list[str], plugin: object) -> int:
    """Pytest's exit status, or minus the signal that ended it, in a process of its own."""
    if (child := os.fork()) == 0:
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        os._exit(int(pytest.main([*OPTIONS.split(), "-m not slow", *files], plugins=[plugin])))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def watch(path: str) -> Any:
    """What a file's tests run, their seconds, and how many fail."""
    run_tests([path], Watch())
    return json.loads(Path("watched.json").read_bytes())


def survivor(mutant: Mutant) -> str:
    """What the line becomes, if all tests pass that may notice; else nothing."""
    module, operator, place, line, tests = mutant
    path = modules()[module]
    source = path.read_text()
    changed = str(mutate_code(source, get_operator(f"core/{operator}")(), place))
    path.write_text(changed)
    status = run_tests(list(dict.fromkeys(test.partition("::")[0] for test in tests)), Choice(tests))
    path.write_text(source)
    if status < 0 or status in (1, 2):  # ended by the alarm; a test fails, or its file cannot be imported
        return ""
    return "\n  ".join(text.splitlines()[line - 1].strip() for text in (source, changed))


def main() -> None:
    """Survey the modules that are asked for, or all; the exit status is 1 where fewer than 85 % are killed."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="such as noise or tables/columns (default: all)")
    parser.add_argument("--number", type=int, default=8, help="mutants of each module (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="which of them (default: 0)")
    options: Any = parser.parse_args()
    os.chdir(ROOT)
    sources = {name: path.read_text() for name, path in modules().items()}
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    sys.dont_write_bytecode = True  # a mutant of the same length and second would pass for the module
    for name in HEAVY:
        importlib.import_module(name)
    began, fork = time.monotonic(), multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder, fork.Pool(None, settle, (folder,)) as pool:
        lines: Any = defaultdict(lambda: defaultdict(list))  # the tests that run each line of each module
        seconds: dict[str, float] = {}
        files = [str(path) for path in Path("tests").glob("test_*.py") if path.stem[5:] not in ELSEWHERE]
        for ran, times, failed in pool.imap_unordered(watch, files):
            if failed:
                raise SystemExit(f"{next(reversed(times), 'a file of tests')} fails without any change")
            seconds |= times
            for module in ran:
                for line, tests in ran[module].items():
                    lines[module][int(line)] += tests
        mutants: list[Mutant] = []
        for module in options.modules or sources:
            possible, rng = places(sources[module]), random.Random(f"{options.seed} {module}")
            for name, place, line in rng.sample(possible, min(options.number, len(possible))):
                mutants.append((module, name, place, line, chosen_tests(module, lines[module], line, seconds)))
        killed = len(mutants)
        for (module, _, _, line, _), change in zip(mutants, pool.imap(survivor, mutants), strict=True):
            if change:
                killed -= 1
                print(f"survived: {module}, line {line}\n  {change}", flush=True)
    total = len(mutants)
    print(f"{killed} of {total} killed, {killed / total:.0%}; {time.monotonic() - began:.0f} s")
    sys.exit(killed < 0.85 * total)


if __name__ == "__main__":
    main()
