import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from ncsn.machine import hardware
from ncsn.networks import MLP

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, when its compiler is first imported
def test_a_machine_that_cannot_compile_says_why_and_goes_on() -> None:
    network, example = MLP(2, width=8), (torch.zeros(3, 2), torch.zeros(3))
    expected = network(*example)

    def trial() -> torch.Tensor:
        raise RuntimeError("no C++ compiler found\nat length")

    try:
        assert hardware.compile_network(network, trial) == "no C++ compiler found"
        assert torch.equal(network(*example), expected)
    finally:
        torch.compiler.set_stance("default")


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this processor has no such mode")
def test_commands_compute_without_denormal_numbers_in_every_thread() -> None:
    """E⁻⁹⁵ is 5·10⁻⁴², and a tensor of a million numbers is computed by all threads; afterwards it is as before."""
    code = """
import torch
from dataclasses import make_dataclass
from ncsn.cli import console

count = lambda n: print(int(torch.full((n,), -95.0).exp().count_nonzero()))
console.run(lambda _: count(2_000_000), make_dataclass("Nothing", []), [])
count(10)
"""
    several = os.environ | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=several)
    assert done.stdout.split() == ["0", "10"]


@pytest.mark.parametrize(
    ("capabilities", "auto", "emulated"),
    [
        ({}, "fp32", ["bf16", "fp16"]),
        ({"avx512_bf16": True}, "bf16", ["fp16"]),
        ({"amx_bf16": True, "avx512_fp16": False}, "bf16", ["fp16"]),
        ({"avx512_bf16": False, "amx_fp16": True}, "fp32", ["bf16"]),
    ],
)
def test_a_processor_gets_the_precision_that_it_is_fast_at(
    capabilities: dict[str, bool], auto: str, emulated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities, raising=False)
    assert hardware.choose_precision("auto", CPU) == auto
    assert hardware.slow(CPU) == (auto == "fp32")
    assert not hardware.slow(torch.device("meta"))
    assert [name for name in ("bf16", "fp16", "fp32") if hardware.emulated(name, CPU)] == emulated
    assert hardware.choose_precision("fp16", CPU) == "fp16"
    with pytest.raises(ValueError, match="tf32"):
        hardware.choose_precision("tf32", CPU)


@pytest.mark.parametrize(("fast", "auto"), [(True, "bf16"), (False, "fp16")])
def test_a_gpu_has_tf32_since_it_has_bfloat16(fast: bool, auto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *, including_emulation: fast)
    assert hardware.choose_precision("auto", GPU) == auto
    assert not hardware.emulated("fp16", GPU)
    if fast:
        assert hardware.choose_precision("tf32", GPU) == "tf32"
    else:
        with pytest.raises(ValueError, match="tf32"):
            hardware.choose_precision("tf32", GPU)
    kinds = [hardware.autocast_of(name) for name in ("bf16", "fp16", "tf32", "fp32")]
    assert kinds == [torch.bfloat16, torch.float16, None, None]


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hardware.choose_device("cpu") == CPU
    for gpus in (0, 2):
        monkeypatch.setitem(hardware.DEVICES, "cuda", partial(bool, gpus))
        monkeypatch.setattr("torch.cuda.device_count", lambda gpus=gpus: gpus)
        assert hardware.choose_device("auto").type == ("cuda" if gpus else "cpu")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert hardware.choose_device("auto") == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="2 GPUs"):
        hardware.choose_device("cuda")
    monkeypatch.setitem(hardware.DEVICES, "cuda", lambda: False)
    with pytest.raises(ValueError, match="auto, cpu"):
        hardware.choose_device("cuda")


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
    hardware.keep_compiled_code()
    place = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    assert place == (str(tmp_path / expected) if expected and not before else expected)
