"""``ncsn export``, ``ncsn play`` and ``ncsn push``: a run for other programs, for the browser, and for other people."""

import re
import shutil
import signal
import sys
import tempfile
import threading
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ncsn.cli import page
from ncsn.cli.options import RunArgument, check_suffix
from ncsn.machine.interrupts import Stopped
from ncsn.validation import Port, check_ranges


@dataclass(frozen=True, kw_only=True)
class Export(RunArgument):
    """Write a run's score as an ONNX file, for browsers and other programs without PyTorch.

    Args:
        out: The file, such as model.onnx; the smaller network that guides samples, if the run has one, goes beside it,
            into model.guide.onnx.
        precision: How weights are stored: fp16 takes half as much. Computation is in float32.
        overwrite: Replace existing files.
    """

    out: tyro.conf.Positional[Path]
    precision: Literal["fp16", "fp32"] = "fp16"
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Refuse another kind of file."""
        check_suffix(self.out, ".onnx")

    def __call__(self) -> None:
        """Export, compare with PyTorch, and print how large the files are."""
        from ncsn.storage import check_out

        check_out(self.out, overwrite=self.overwrite)
        import ncsn

        run = ncsn.load(self.run, device="cpu")
        for path in ncsn.export(run, self.out, precision=self.precision, overwrite=self.overwrite):
            print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, compared with PyTorch")


@dataclass(frozen=True, kw_only=True)
class Play:
    """Open the page on which scores, annealing, learning and sampling can be tried by hand; Ctrl-C ends it.

    It is served to this machine alone, and asks nothing of the network.

    Args:
        run: A run of images, as other commands take it, or a file that ncsn export wrote: what the page draws, instead
            of the model that comes with the package.
        port: Where, on 127.0.0.1; 0 for any that is free.
        browser: Open the browser, too.
    """

    run: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[RUN]")] = None
    port: Port = 8000
    browser: bool = True

    def __post_init__(self) -> None:
        """Refuse a port that there is not."""
        check_ranges(self)

    def __call__(self) -> None:
        """Serve the page until Ctrl-C."""
        with tempfile.TemporaryDirectory(prefix="ncsn-play-") as temporary:
            folder = page.built()
            if self.run is not None:  # the page again, but for its model
                ignored = shutil.ignore_patterns(*page.MODELS)
                folder = Path(shutil.copytree(folder, Path(temporary) / "page", ignore=ignored))
            with page.server(folder, self.port) as server:
                if self.run is not None:
                    put_models(self.run, folder)
                address = f"http://127.0.0.1:{server.server_port}/{'' if self.run is None else '#digits'}"
                print(f"{address}  (Ctrl-C ends it)", flush=True)
                if self.browser:  # a browser for terminals keeps the call until it is closed
                    threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
                try:
                    server.serve_forever()
                except Stopped as stop:
                    if stop.number != signal.SIGINT:
                        raise
                    print()


def put_models(run: Path, folder: Path) -> None:
    """Put a run's networks into a ``folder`` as the page wants them: an exported file, or a new export of a run.

    Raises ValueError if there is no such run or file, if the page cannot show it, or if it cannot be exported.
    """
    score, guide = (folder / name for name in page.MODELS)
    if run.suffix == ".onnx":
        if not run.is_file():
            raise ValueError(f"{run} is no file")
        shutil.copyfile(run, score)
        if run.with_suffix(".guide.onnx").is_file():
            shutil.copyfile(run.with_suffix(".guide.onnx"), guide)
        return
    import ncsn

    loaded = ncsn.load(run, device="cpu")
    shape = loaded.recipe.shape
    if not loaded.recipe.images or shape[0] not in (1, 3):
        raise ValueError(f"{run} makes examples of shape {shape}; the page shows images, grey or in three colours")
    print(f"{run} is being exported for the page", flush=True)
    ncsn.export(loaded, score, precision="fp32")


@dataclass(frozen=True, kw_only=True)
class Push:
    """Share a run on Hugging Face's hub: its configuration, weights and numbers, with a model card that is written.

    Privately, unless --public says otherwise.  Your token is the library's affair: `hf auth login`, or HF_TOKEN.

    Args:
        run: The run's folder, such as runs/mnist; or mnist, the model that comes with the package.
        to: Where: user/model. Then it is hf://user/model to every command, and to ncsn.load.
        licence: The model's licence, by the hub's name for it: mit, apache-2.0, cc-by-4.0, other, … By default none is
            given.
        public: Everybody may see and load it; by default only you may.
        overwrite: Replace a model that is there already, by a further commit.
        dry_run: Send nothing, and write what would be sent, the card too, into this new folder: to look at, or to load.
    """

    run: tyro.conf.Positional[Path]
    to: tyro.conf.Positional[str]
    licence: Annotated[str | None, tyro.conf.arg(aliases=["--license"])] = None
    public: bool = False
    overwrite: bool = False
    dry_run: Path | None = None

    def __post_init__(self) -> None:
        """Refuse names that the hub does not take."""
        if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", self.to, re.ASCII):
            raise ValueError(f"to is {self.to!r:.80}; user/model is needed")
        if self.licence is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]{0,49}", self.licence):
            raise ValueError(f"licence is {self.licence!r:.80}; a name like mit, cc-by-4.0 or other is needed")

    def __call__(self) -> None:
        """Read the run, and send it."""
        if self.dry_run is not None and (self.dry_run.exists() or self.dry_run.is_symlink()):
            raise ValueError(f"{self.dry_run} exists; --dry-run needs a new folder")
        import ncsn
        from ncsn import hub, storage

        folder = storage.find(self.run)
        digest = ncsn.load(folder, device="cpu").digest
        with tempfile.TemporaryDirectory(prefix="ncsn-push-") as temporary:
            out = Path(temporary) / "run"
            files = hub.write_shared(folder, out, self.to, digest=digest, licence=self.licence)
            if hub.EVALUATION not in files and (folder / hub.EVALUATION).exists():
                print(f"{folder / hub.EVALUATION} is left out: it is not about the run as it is now", file=sys.stderr)
            if self.dry_run is None:
                address = hub.send(out, self.to, public=self.public, overwrite=self.overwrite)
                print(f"{address}: {len(files)} files, {'public' if self.public else 'private'}")
                return
            shutil.copytree(out, self.dry_run)
        for name in files:
            print(f"{self.dry_run / name}: {(self.dry_run / name).stat().st_size:,} bytes")
        command = f"ncsn push {self.run} {self.to}"
        print(f"{self.dry_run}: {len(files)} files, which `{command}` would send; nothing was sent")
