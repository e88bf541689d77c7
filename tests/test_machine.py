"""Devices, precision, compilation, threads and denormal numbers: what follows from what a machine is."""

import logging
import math
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest
import torch
from helpers import fit_table, refusal, zero_score
from torch import Tensor, nn

import ncsn
from ncsn import Run, ScoreModel
from ncsn.machine import hardware
from ncsn.machine.hardware import Load, in_parallel, threads_for
from ncsn.machine.messages import bar, forecast, quieter
from ncsn.networks import MLP, UNet
from ncsn.settings import TrainSettings

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, when its compiler is first imported
@pytest.mark.parametrize(
    ("seconds", "reported", "why"),
    [
        (0.0, "it failed\nat length\nx.cpp: error: no such header\nerror: more", "x.cpp: error: no such header"),
        (
            0.0,
            "backend='inductor' raised:\nOSError: no g++\n\nSet TORCHDYNAMO",
            "backend='inductor' raised: OSError: no g++",
        ),
        (0.5, "While executing %silu_4 : [num_users=1]", "it took more than 0.5 s"),
    ],
)
def test_a_machine_that_cannot_compile_says_why_and_goes_on(
    seconds: float, reported: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    network, example = MLP(2, width=8), (torch.zeros(3, 2), torch.zeros(3))
    expected = network(*example)
    network.compile = Mock(side_effect=network.compile)  # type: ignore[method-assign]

    def trial() -> torch.Tensor:
        warnings.warn("torch may have many", stacklevel=1)  # and pytest makes errors of them
        try:
            time.sleep(20 * seconds)
        finally:  # torch wraps what is raised in its compiler
            raise RuntimeError(reported)

    hardware.compile_network(network, trial, seconds=seconds)
    assert f": {why}\n" in capsys.readouterr().err
    options = {"inplace_buffers": False, "cpp.dynamic_threads": True}
    assert network.compile.call_args_list[0] == call(dynamic=False, options=options)
    assert torch.equal(network(*example), expected)
    compiled = Mock(side_effect=lambda module, _: module)
    torch.compile(lambda x: x + 1, backend=compiled)(torch.zeros(2))
    compiled.assert_called_once()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_blocks_of_a_unet_are_compiled_however_many_kinds_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    network, compiled, limits = UNet(1, (4, 6), 2, 8), list[nn.Module](), list[int]()

    def compile_function(function: Any, **_: object) -> Any:
        compiled.append(function.__self__)
        return function

    def trial() -> Tensor:
        limits.append(torch._dynamo.config.recompile_limit)
        value: Tensor = network(torch.zeros(2, 1, 8, 8), torch.zeros(2))
        return value

    monkeypatch.setattr(torch, "compile", compile_function)
    hardware.compile_network(network, trial)
    assert compiled == [
        block for half in (network.encoder, network.decoder) for level in half for block in level.children()
    ]
    assert limits == [100], "torch's own is eight"
    assert all(weight.grad is None for weight in network.parameters()), "of the trial"


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this processor has no such mode")
def test_commands_compute_without_denormal_numbers_in_every_thread() -> None:
    """E⁻⁹⁵ is 5·10⁻⁴², and a tensor of a million numbers is computed by all threads."""
    code = """
import torch
from dataclasses import make_dataclass
from ncsn.cli import console

count = lambda _: print(int(torch.full((2_000_000,), -95.0).exp().count_nonzero()))
console.run(count, make_dataclass("Nothing", []), [])
"""
    several = os.environ | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=several)
    assert done.stdout.strip() == "0"


@pytest.mark.parametrize(
    ("capabilities", "auto"),
    [
        ({}, "fp32"),
        ({"avx512_bf16": True, "amx_bf16": False}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({"avx512_bf16": False, "avx2": True}, "fp32"),
    ],
)
def test_a_device_gets_the_precision_that_it_is_fast_at(
    capabilities: dict[str, bool], auto: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *, including_emulation: auto == "bf16")
    dtypes = {"bf16": torch.bfloat16, "fp32": None}
    for device in (CPU, GPU):
        assert hardware.choose_autocast("auto", device) is dtypes[auto]
        assert {name: hardware.choose_autocast(name, device) for name in dtypes} == dtypes


@pytest.mark.parametrize("local_rank", [None, "1"])
def test_each_process_has_a_gpu_of_its_own(local_rank: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run.of(zero_score, (2,), sigma_max=5.0, sigma_min=0.1)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert run.to("auto").device == run.to("cpu").device == CPU
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.empty", lambda _, device: SimpleNamespace(device=torch.device(device)))
    own = torch.device("cuda", int(local_rank or 0))
    assert run.to("auto").device == run.to("cuda").device == own


@pytest.mark.parametrize("name", ["cuda:17", "xla", "quantum"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    run = Run.of(zero_score, (2,), sigma_max=5.0, sigma_min=0.1)
    with pytest.raises(ValueError, match=name):
        run.to(name)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Sets how many threads torch uses, which the environment doesn't say; afterwards they are as before."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    usual = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(usual)


@pytest.mark.parametrize(
    ("looks", "fixed"),
    [
        # When work begins, how many processors others have used since the previous look, and the threads for it.
        ([(1, 0.39, 4)], None),
        ([(1, 0.5, 3)], None),
        ([(0.1, 1.9, 4), (0.3, 1.9, 2)], None),
        ([(1, 3.9, 1)], None),
        ([(1, 1.9, 2), (2, 0.0, 2), (3.5, 0.0, 4), (6, 3.0, 1)], None),
        ([(1, 1.9, 4), (9, 3.0, 4)], "OMP_NUM_THREADS"),
        ([(1, 1.9, 4), (9, 3.0, 4)], "MKL_NUM_THREADS"),
    ],
)
def test_threads_follow_the_load(
    looks: list[tuple[float, float, int]],
    fixed: str | None,
    threads: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of four processors, from an hour after their start on; own work, three quarters of what is left, is no load."""
    if fixed is not None:
        monkeypatch.setenv(fixed, "4")
    now, left = 3600.0, 9000.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    monkeypatch.setattr("time.process_time", lambda: 0.75 * left)
    monkeypatch.setattr("psutil.cpu_times", lambda: SimpleNamespace(user=9 * now, idle=0.15 * left, iowait=0.1 * left))
    monkeypatch.setattr(hardware, "LOAD", Load())
    numbers: list[int] = []
    threads(4)
    for at, others, _ in looks:
        now, left = 3600 + at, left + (4 - others) * (3600 + at - now)
        with threads_for():
            numbers.append(torch.get_num_threads())
        assert torch.get_num_threads() == 4, "afterwards"
        with threads_for(steady=True):
            assert torch.get_num_threads() == 4, "whatever the load"
    assert numbers == [number for _, _, number in looks]
    assert capsys.readouterr().err.count("of 4 threads") == (min(numbers) < 4), "once"


def test_python_samples_with_no_more_threads_than_are_free(
    threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    busy = Load()
    monkeypatch.setattr(hardware, "LOAD", busy)
    busy.checked, busy.next_check = time.perf_counter() - 60, 0.0  # none was free
    seen = set[int]()

    def score(x: Tensor, sigma: Any) -> Tensor:
        seen.add(torch.get_num_threads())
        return -x

    threads(2)
    run = ncsn.Run.of(score, (2,), sigma_max=2.0, sigma_min=0.1)
    for use in (lambda: run.sample(3), lambda: [*run.steps(3)]):
        seen.clear()
        use()
        assert (seen, torch.get_num_threads()) == ({1}, 2)
    busy.announced = False
    ncsn.calibrate(run, measure=lambda x: x[:, :1], noise_std=0.5, truths="run", n=30, draws=3, levels=3)
    assert "1 of 2" in capsys.readouterr().err.splitlines()[-1]
    assert torch.get_num_threads() == 2


def threads_of(network: nn.Module) -> set[int]:
    """With how many threads a network is evaluated at more than one example, from here on."""
    seen = set[int]()

    def note(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        if len(given[0]) > 1:
            seen.add(torch.get_num_threads())

    network.register_forward_pre_hook(note)
    return seen


@pytest.mark.parametrize("fixed", [None, "OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_one_thread_computes_small_networks_unless_the_user_has_said_how_many(
    fixed: str | None, threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a training, and in all that a run does; torch is left as it was."""
    if fixed is not None:
        monkeypatch.setenv(fixed, "2")
    monkeypatch.setattr(hardware, "LOAD", SimpleNamespace(threads=lambda most: most))  # all processors are free
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    threads(2)
    learned = threads_of(network := MLP(2, 8, 1))
    ncsn.fit(x, steps=2, network=network, quiet=True)
    run = fit_table(x, steps=2, settings=TrainSettings(channels=(8,), blocks=1, minutes=None), quiet=True)
    used = [learned]
    for use in (
        lambda: run.sample(3, levels=3),
        lambda: next(run.steps(3, levels=3)),
        lambda: run.log_prob(x[:2], tolerance=0.5),
        lambda: run.impute([[0.0, math.nan]], 2),
    ):
        seen = threads_of(run.model.network)
        use()
        used.append({*seen})
        assert torch.get_num_threads() == 2
    many = threads_of(images := UNet(1, (4,), 1, 4))
    wide = threads_of(large := MLP(2, 1024, 2))
    for score, size in ((ScoreModel(images), (1, 4, 4)), (ScoreModel(large), (2,))):
        Run.of(score, size, sigma_max=5.0, sigma_min=0.1).sample(2, levels=3)
    *others, imputed = used
    assert others == [{1 if fixed is None else 2}] * 4
    assert imputed == {1}, "of two batches at once"
    assert (many, wide) == ({2}, {2})


def test_computations_at_once_have_a_thread_each_and_their_results_keep_their_order(
    threads: Callable[[int], None],
) -> None:
    together = threading.Barrier(3, timeout=20)

    def work(number: int) -> tuple[int, int]:
        together.wait()
        return number, torch.get_num_threads()

    threads(2)
    assert [*in_parallel(work, range(6), 3)] == [(number, 1) for number in range(6)]
    assert torch.get_num_threads() == 2
    with pytest.raises(ZeroDivisionError):
        [*in_parallel(lambda number: 1 // number, [3, 0, 3], 2)]
    assert torch.get_num_threads() == 2


def test_imputations_do_not_depend_on_how_many_are_computed_at_once(
    threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "LOAD", SimpleNamespace(threads=lambda most: most))
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    run = fit_table(x, steps=2, settings=TrainSettings(channels=(8,), blocks=1, minutes=None), quiet=True)
    gaps = x[:5].clone()
    gaps[:, 1] = math.nan
    draws = list[Tensor]()
    for number in (1, 3):
        threads(number)
        draws.append(run.impute(gaps, 600).draws)  # a batch for each row
    assert draws[0].equal(draws[1])
    correlations = torch.corrcoef(draws[0][:, :, 1].T) - torch.eye(5)
    assert correlations.abs().max() < 0.25, "each row has noise of its own"


@pytest.mark.parametrize(("library", "calls"), [("glibc", [call(-1, 2**30), call(-3, 2**30)]), ("musl", [])])
def test_memory_is_kept_where_the_library_can(
    library: str, calls: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By every command.  M_TRIM_THRESHOLD is −1 and M_MMAP_THRESHOLD −3 in malloc.h."""
    c = Mock()
    monkeypatch.setattr("platform.libc_ver", lambda: (library, "2.39"))
    monkeypatch.setattr("ctypes.CDLL", lambda _: c)
    assert "absent" in refusal(capsys, "sample", "absent", "--device", "cpu")
    assert c.mallopt.call_args_list == calls


def test_messages_are_dropped_within_a_block_and_in_its_thread_only(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("ncsn")
    with quieter(logging.ERROR):
        log.warning("here")
        with quieter(logging.INFO):
            log.warning("inside")
        with ThreadPoolExecutor(1) as pool:
            pool.submit(log.warning, "elsewhere").result()
    log.warning("afterwards")
    assert capsys.readouterr().err.split() == ["elsewhere", "afterwards"]


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.5, ""), (4.0, "rows: about 16 s\n"), (60.0, "rows: about 4 minutes\n")]
)
def test_a_long_wait_is_announced_after_its_first_part(
    seconds: float, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    for number in forecast(range(5), 5, "rows"):
        assert capsys.readouterr() == ("", said if number == 1 else "")
        now[0] += seconds
    monkeypatch.setenv("TQDM_DISABLE", "1")
    for _ in forecast(range(5), 5, "rows"):
        now[0] += seconds
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("waited", "shown"), [(0.5, False), (1.5, True)])
def test_messages_show_no_bar_too_early_and_leave_no_part_of_one(
    waited: float, shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is printed after the bar begins a line."""
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    progress = bar(range(5), "rows")
    now = time.time() + waited
    monkeypatch.setattr(time, "time", lambda: now)
    logging.getLogger("ncsn").warning("it takes long")
    progress.close()
    said = capsys.readouterr().err
    *_, last = said.replace("\n", "\r").split("\r")
    assert last == ""
    assert ("rows:" in said) == shown


def test_a_bar_counts_nothing_twice_whatever_is_said_meanwhile(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    now = [time.time()]
    monkeypatch.setattr(time, "time", lambda: now[0])
    progress = bar(range(10), "rows")
    progress._time = time.time
    for item in progress:
        assert progress.n <= item
        now[0] += 20  # it is drawn every 30 seconds
        logging.getLogger("ncsn").warning("meanwhile")
    assert "rows:" in capsys.readouterr().err


def test_a_notebook_without_widgets_gets_no_warning() -> None:
    """Here a kernel seems to run, and its widgets can't be imported."""
    code = """
import sys
from types import SimpleNamespace
sys.modules |= {"ipykernel.zmqshell": SimpleNamespace(), "ipywidgets": None}
sys.modules["IPython"] = SimpleNamespace(get_ipython=lambda: None)
import ncsn.machine.messages as messages
assert "notebook" not in messages.tqdm.__module__
"""
    assert not subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stderr
