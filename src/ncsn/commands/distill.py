"""``ncsn distill``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Interval

from ncsn import console
from ncsn.commands.options import OfRun
from ncsn.ranges import BatchSize, Seed, check_ranges
from ncsn.threads import Threads


@dataclass(frozen=True, kw_only=True)
class Distill(OfRun):
    """Teach a copy of a run's network to draw by few evaluations, which is what `--sampler fast` then does."""

    minutes: Annotated[float, Interval(gt=0, le=10**6)] = 25.0
    """Wall clock for all of it."""
    evaluations: Annotated[int, Interval(ge=2, le=100)] = 4
    """How many evaluations of the network a sample will take."""
    out: Path | None = None
    """Where the student goes, a run of its own; by default the folder student in the run's, where fast finds it until
    the run's training goes on."""
    batch_size: BatchSize = 64
    """Examples in a step."""
    seed: Seed = 0
    """Of all that is random."""
    overwrite: bool = False
    """Replace the student that is there."""
    resume: bool = False
    """Go on from its last checkpoint."""

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense."""
        check_ranges(self)

    def __call__(self) -> None:
        """Teach."""
        import torch

        import ncsn
        from ncsn import storage
        from ncsn.clock import Clock
        from ncsn.data.images import batches
        from ncsn.experiments.distillation import Distillation, levels, state_of, student_of
        from ncsn.experiments.study import COMPILED_FROM

        clock, own = Clock(), Path(self.run)
        if self.out is None and not storage.begun(own):
            raise ValueError(f"{self.run} is no folder of yours; --out says where its student goes")
        folder = own / storage.STUDENT if self.out is None else self.out
        if folder.resolve() == own.resolve():
            raise ValueError(f"{folder} is the run itself; its student needs a folder of its own")
        run = ncsn.load(self.run, device=self.device)
        images, sigmas = run.data(), levels(run, self.evaluations)
        if self.resume and storage.begun(folder):
            begun = storage.read_config(folder).recipe.sampling
            if begun.count != self.evaluations:
                raise ValueError(f"evaluations is {self.evaluations}; the student to go on with takes {begun.count}")
        student = student_of(run, sigmas)
        generator = torch.Generator(run.device).manual_seed(self.seed)
        state = state_of(student, generator)
        lock = storage.claim(folder, overwrite=self.overwrite, resume=self.resume)
        storage.write_config(folder, run.experiment, run.settings, student.recipe, run.origin)
        if self.resume:
            state.load(folder / "checkpoint.pt")
        if self.minutes >= COMPILED_FROM:
            example = torch.zeros(self.batch_size, *run.recipe.shape, device=run.device)
            sigma = torch.ones(self.batch_size, device=run.device)
            console.compile_run(run, self.batch_size)
            console.compile_network(student.model.network, lambda: student.model(example, sigma))

        known = images.labels.train.to(run.device) if images.labels is not None and run.recipe.classes else None
        shown = batches(images.train.to(run.device), self.batch_size, known, generator=generator)
        loss = Distillation(teacher=run, sigmas=sigmas, generator=generator)
        threads = Threads()
        signals: list[int] = []
        budget = ncsn.Budget(seconds=max(1.0, 60 * self.minutes - clock.passed))
        progress = ncsn.train(state, shown, loss, budget=budget, signals=signals)
        for _ in console.watch(progress, state, folder, signals, threads=threads, what="student "):
            pass
        threads.release()
        lock.release()
        seen = state.step * self.batch_size
        print(f"{folder}: draws by {self.evaluations} evaluations, after {seen:,} images; the sampler is euler")
