"""``ncsn distill``."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval

from ncsn.cli import console
from ncsn.cli.options import OfRun
from ncsn.progress import Clock
from ncsn.validation import BatchSize, Seed, check_ranges

if TYPE_CHECKING:
    from ncsn.data.images import Images
    from ncsn.run import Run

JUDGING = 0.1  # of the minutes
THOROUGH = 10.0  # minutes, from which on a classifier to judge by is worth its training


@dataclass(frozen=True, kw_only=True)
class Distill(OfRun):
    """Teach a copy of a run's network to draw by few evaluations, which is what `--sampler fast` then does."""

    minutes: Annotated[float, Interval(gt=0, le=10**6)] = 25.0
    """Wall clock for all of it."""
    evaluations: Annotated[int, Interval(ge=2, le=8)] = 6
    """How many evaluations of the network a sample will take; those beyond four are restarts after fresh noise."""
    out: Path | None = None
    """Where the student goes, a run of its own; by default the folder student in the run's, where fast finds it until
    the run's training goes on."""
    data: str | None = None
    """Where the data set is that the run was trained on, if it has moved."""
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
        """Teach, and judge."""
        import torch

        import ncsn
        from ncsn import machine, storage
        from ncsn.data.images import batches
        from ncsn.learn.distillation import Distillation, levels, state_of, student_of
        from ncsn.learn.study import COMPILED_FROM
        from ncsn.storage import digest

        clock, folder = Clock(), self.place()
        run = ncsn.load(self.run, device=self.device)
        images, sigmas = run.data(self.data), levels(run, self.evaluations)
        if self.resume and not storage.begun(folder):
            print(f"{folder} holds no student to resume: it begins")
        elif self.resume:
            begun = storage.read_config(folder).recipe.sampling
            if begun.levels != sigmas:
                there = f"the student to go on with takes {begun.nfe}, on other noise levels"
                raise ValueError(f"evaluations is {self.evaluations}; {there}")
        student = student_of(run, sigmas)
        generator = torch.Generator(run.device).manual_seed(self.seed)
        state = state_of(student, generator)
        lock = storage.claim(folder, overwrite=self.overwrite, resume=self.resume)
        checkpoint = folder / storage.CHECKPOINT
        if self.resume and checkpoint.exists():
            state.load(checkpoint)  # before anything is changed: it may be damaged, or none
        storage.write_config(folder, run.experiment, run.settings, student.recipe, run.origin)
        (folder / "metrics.json").unlink(missing_ok=True)  # a verdict on the weights as they were
        state.save(checkpoint)
        if self.minutes >= COMPILED_FROM:
            example = torch.zeros(self.batch_size, *run.recipe.shape, device=run.device)
            sigma = torch.ones(self.batch_size, device=run.device)
            console.compile_run(run, self.batch_size)
            console.compile_network(student.model.network, lambda: student.model(example, sigma))

        known = images.labels.train.to(run.device) if images.labels is not None and run.recipe.classes else None
        shown = batches(images.train.to(run.device), self.batch_size, known, generator=generator)
        loss = Distillation(teacher=run, sigmas=sigmas, generator=generator)
        threads = machine.Threads()
        signals: list[int] = []
        budget = ncsn.Budget(seconds=max(1.0, 60 * self.minutes * (1 - JUDGING) - clock.passed))
        progress = ncsn.train(state, shown, loss, budget=budget, signals=signals)
        for _ in console.watch(progress, state, folder, signals, threads=threads, what="student "):
            pass
        threads.release()
        seen = state.step * self.batch_size
        print(f"{folder}: has learned from {seen:,} images; it draws by {self.evaluations} evaluations")
        try:
            verdict = self.verdict(run, replace(student, score=state.average), images, clock)
        except KeyboardInterrupt as error:
            console.stopped(error, f"; {checkpoint} is saved, and --resume goes on to judge it")
        learned = {"images_seen": seen, "seconds": state.seconds, "teacher": digest(run.model.state_dict())}
        storage.write_json(folder / "metrics.json", learned | verdict)
        lock.release()

    def place(self) -> Path:
        """The student's folder.  Raises ValueError if it would be none, or its run's own."""
        from ncsn import storage

        own = Path(self.run)
        if self.out is None and not storage.begun(own):
            raise ValueError(f"{self.run} is no folder of yours; --out says where its student goes")
        folder = own / storage.STUDENT if self.out is None else self.out
        if folder.resolve() == own.resolve():
            raise ValueError(f"{folder} is the run itself; its student needs a folder of its own")
        return folder

    def verdict(self, run: "Run", student: "Run", images: "Images", clock: Clock) -> dict[str, object]:
        """What held-out images say of the student, and whether ``fast`` is to draw by it, within what time is left."""
        from ncsn.evaluation import at_8_bits
        from ncsn.learn import guidance
        from ncsn.learn.judging import BLOCK, ENOUGH, FEWEST, JUDGED, judged, samples

        without = "fast does not draw by it"
        images = at_8_bits(images)
        n = min(JUDGED, len(images.validation))
        if n < FEWEST:
            print(
                f"there are {len(images.validation):,} held-out images, and {FEWEST} are needed to judge it: {without}"
            )
            return {"offered": False}
        features = guidance.suited(images, run.device, thorough=self.minutes >= THOROUGH)
        drawn = []
        blocks = samples(run, student, n, batch_size=self.batch_size, seed=self.seed)
        for block in console.bar(blocks, "judging the student", total=n // BLOCK):
            drawn.append(block)
            if len(drawn) * BLOCK >= FEWEST and clock.passed > 60 * self.minutes:
                break
        found = judged(drawn, images.validation, features)
        print(
            f"{found.distance} from held-out images, {found.n:,} samples each: the student's {found.student:.3g}, "
            f"its run's {found.own:.3g}"
        )
        if not found.enough:
            print(f"that is over {ENOUGH} times as far: {without}; --resume with more --minutes teaches it more")
        return {"offered": found.enough, **asdict(found)}
