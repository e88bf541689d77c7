"""``ncsn play``."""

import shutil
import tempfile
import threading
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ncsn import page
from ncsn.cli.interrupts import Interrupted
from ncsn.validation import Port, check_ranges


@dataclass(frozen=True, kw_only=True)
class Play:
    """Open the page on which scores, annealing, learning and sampling can be tried by hand; Ctrl-C ends it.

    It is served to this machine alone, and asks nothing of the network.
    """

    run: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[RUN]")] = None
    """A run of images, as other commands take it, or a file that ncsn export wrote: what the page draws, instead of the
    model that comes with the package."""
    port: Port = 8000
    """Where, on 127.0.0.1; 0 for any that is free."""
    browser: bool = True
    """Open the browser, too."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        check_ranges(self)

    def __call__(self) -> None:
        """Serve the page until Ctrl-C."""
        with tempfile.TemporaryDirectory(prefix="ncsn-play-") as folder:
            models = Path(folder) if self.run is not None else None
            with page.server(page.built(), self.port, models=models) as server:
                if self.run is not None:
                    provide(self.run, Path(folder))
                address = f"http://127.0.0.1:{server.server_port}/{'' if self.run is None else '#digits'}"
                print(f"{address}  (Ctrl-C ends it)", flush=True)
                if self.browser:  # which may take as long as the browser is open, where that is one for terminals
                    threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
                try:
                    server.serve_forever()
                except Interrupted:
                    print()


def provide(run: Path, folder: Path) -> None:
    """Put a run's networks into a ``folder`` as the page wants them: a file that was exported, or an export of now.

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
