import pytest
import torch

from ncsn import machine, process
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
    assert machine.choose_device("auto").type in ("cpu", "cuda")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device is cuda; there are auto, cpu"):
            machine.choose_device("cuda")


def test_keeping_memory_is_harmless() -> None:
    process.keep_memory()
    assert torch.ones(10**6).sum() == 10**6
    assert isinstance(machine.fast_bfloat16(torch.device("cpu")), bool)
