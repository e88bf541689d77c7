import os
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

# Before torch starts its threads: several test processes on few cores must not spin while they wait.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# They share the cores, and their number stays: beside each other, commands would take fewer.
cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
os.environ["OMP_NUM_THREADS"] = str(max(1, (cores or 1) // workers))
# What tests compile is not kept with what the developer's commands do.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir()) / "ncsn-tests-compiled"))

import hypothesis
import jaxtyping
import pytest
import torch
import typechecker

hypothesis.settings.register_profile("no deadline", deadline=None)  # the first call of anything in torch is slow
hypothesis.settings.load_profile("no deadline")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--shapes", action="store_true", help="check types and shapes of the first calls of each function in each test"
    )


def pytest_configure(config: pytest.Config) -> None:
    """The check of calls against annotated types and shapes must precede the first import of the package."""
    if config.getoption("shapes"):
        setattr(jaxtyping, "jaxtyped", typechecker.jaxtyped_at_first)  # noqa: B010
        jaxtyping.install_import_hook("ncsn", "typechecker.checked")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, data.npz, and the run that a tiny ``ncsn train`` has made of them, run."""
    import numpy as np
    from learning import TINY, arrays

    from ncsn.cli.commands import main

    folder = tmp_path_factory.mktemp("trained")
    images, labels = arrays(600)
    np.savez(folder / "data.npz", images=images, labels=labels)
    main(["train", f"{folder}/data.npz", *TINY.split(), "--steps", "12", "--out", f"{folder}/run", "--device", "cpu"])
    return folder


@pytest.fixture(autouse=True)
def as_new() -> Iterator[None]:
    """Commands flush denormals, and hypothesis wants them; a test may set another type of tensors."""
    typechecker.calls.clear()
    yield
    torch.set_flush_denormal(False)
    torch.set_default_dtype(torch.float32)


@pytest.fixture(params=["cpu", "cuda", "mps"])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a device: the processor itself, or a GPU that is pretended."""
    from pretend import Pretend

    name: str = request.param
    with nullcontext() if name == "cpu" else Pretend(name):
        yield name


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's own folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
