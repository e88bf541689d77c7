import pytest
import torch

from ncsn import machine
from ncsn.networks import MLP


def test_a_machine_that_cannot_compile_says_why_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*_: object, **__: object) -> None:
        raise RuntimeError("no C++ compiler found\nat length")

    monkeypatch.setattr(torch, "compile", no_compiler)
    network = MLP(2, width=8)
    assert machine.compile_network(network) == "no C++ compiler found"
    assert network(torch.zeros(3, 2), torch.zeros(3)).shape == (3, 2)


def test_devices() -> None:
    assert machine.choose_device("cpu") == torch.device("cpu")
    assert machine.choose_device("auto").type in ("cpu", "cuda")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="allowed are cpu and auto"):
            machine.choose_device("cuda")


def test_keeping_memory_is_harmless() -> None:
    machine.keep_memory()
    assert torch.ones(10**6).sum() == 10**6
    assert isinstance(machine.fast_bfloat16(torch.device("cpu")), bool)
