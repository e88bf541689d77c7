import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ncsn import machine
from ncsn.machine import refresh_interval
from ncsn.networks import MLP


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, when its compiler is first imported
def test_a_machine_that_cannot_compile_says_why_and_goes_on() -> None:
    network, example = MLP(2, width=8), (torch.zeros(3, 2), torch.zeros(3))
    expected = network(*example)

    def trial() -> torch.Tensor:
        raise RuntimeError("no C++ compiler found\nat length")

    try:
        assert machine.compile_network(network, trial) == "no C++ compiler found"
        assert torch.equal(network(*example), expected)
    finally:
        torch.compiler.set_stance("default")


def test_devices() -> None:
    assert machine.choose_device("cpu") == torch.device("cpu")
    assert machine.choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device is cuda; there are auto, cpu"):
            machine.choose_device("cuda")


@pytest.mark.parametrize(("library", "expected"), [("glibc", [(-1, 2**30), (-3, 2**30)]), ("musl", []), ("", [])])
def test_glibc_is_told_to_keep_a_gigabyte(
    library: str, expected: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what is trimmed from the top of the heap, -1 of malloc.h, and of what is mapped, -3."""
    told: list[tuple[int, int]] = []
    libc = SimpleNamespace(mallopt=lambda *parameter: told.append(parameter))
    monkeypatch.setattr("ctypes.CDLL", lambda _: libc)
    monkeypatch.setattr(machine, "GLIBC", library == "glibc")
    machine.keep_memory()
    assert told == expected


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this processor has no such mode")
def test_commands_compute_without_denormal_numbers_in_every_thread() -> None:
    """E⁻⁹⁵ is 5·10⁻⁴², and a tensor of a million numbers is computed by all threads."""
    count = "print(int(torch.full((2_000_000,), -95.0).exp().count_nonzero()))"
    command = f"""
import torch
from dataclasses import dataclass
from ncsn.cli import console

@dataclass
class Nothing:
    pass

console.run(lambda _: {count}, Nothing, [])
print(int(torch.full((10,), -95.0).exp().count_nonzero()))
"""
    several = os.environ | {"OMP_NUM_THREADS": "2"}
    for code, expected in ((f"import torch; {count}", ["2000000"]), (command, ["0", "10"])):
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=several)
        assert told.stdout.split() == expected, "and as before, when the command has ended"


@pytest.mark.parametrize(
    ("capabilities", "fast"),
    [({}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx512_bf16": False}, False)],
)
def test_a_processor_without_bfloat16_is_slow(
    capabilities: dict[str, bool], fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities, raising=False)
    assert machine.fast_bfloat16(torch.device("cpu")) is fast
    assert machine.slow(torch.device("cpu")) is not fast
    assert not machine.slow(torch.device("meta"))


def test_a_terminal_is_refreshed_often_and_a_log_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal, seconds in ((True, 0.3), (False, 30.0)):
        monkeypatch.setattr("sys.stderr", SimpleNamespace(isatty=lambda terminal=terminal: terminal))
        assert refresh_interval() == seconds


def test_another_shape_is_not_compiled_where_that_does_not_pay() -> None:
    compiled: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        compiled.append(len(inputs))
        return graph.forward

    double = torch.compile(lambda x: 2 * x, backend=backend, dynamic=False)
    double(torch.ones(2))
    with machine.nothing_compiled():
        assert double(torch.ones(3)).tolist() == [2, 2, 2]
        double(torch.ones(2))
    assert len(compiled) == 1
    double(torch.ones(3))
    assert len(compiled) == 2


def test_the_fastest_precision_of_a_device_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for fast, names in ((True, ("bf16", "bf16")), (False, ("fp32", "fp16"))):
        monkeypatch.setattr("ncsn.machine.fast_bfloat16", lambda _, fast=fast: fast)
        assert tuple(machine.choose_precision("auto", device) for device in (cpu, gpu)) == names
        with pytest.raises(ValueError, match="precision is tf32; cpu has bf16, fp16, fp32"):
            machine.choose_precision("tf32", cpu)
    with pytest.raises(ValueError, match="precision is tf32; cuda has bf16, fp16, fp32"):
        machine.choose_precision("tf32", gpu)
    assert machine.choose_precision("fp32", cpu) == "fp32"
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_fp16": False}, raising=False)
    assert [machine.emulated(name, cpu) for name in ("bf16", "fp16", "fp32")] == [True, True, False]
    assert not machine.emulated("fp16", gpu)
    kinds = [machine.autocast_of(name) for name in ("bf16", "fp16", "tf32", "fp32")]
    assert kinds == [torch.bfloat16, torch.float16, None, None]


@pytest.mark.parametrize(
    ("before", "home", "expected"),
    [
        ({}, "mine", "mine/.cache/ncsn/compiled"),
        ({"TORCHINDUCTOR_CACHE_DIR": "chosen"}, "mine", "chosen"),
        ({}, "my home", None),  # torch's compiler takes no spaces
        ({}, "mine/file", None),  # where no folder can be made
    ],
)
def test_compiled_code_is_kept_where_it_can_be(
    before: dict[str, str], home: str, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    monkeypatch.setattr("os.environ", {"HOME": str(tmp_path / home), **before})
    machine.keep_compiled_code()
    place = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    assert place == (str(tmp_path / expected) if expected and not before else expected)
