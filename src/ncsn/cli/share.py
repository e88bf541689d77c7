"""``ncsn export`` and ``ncsn play``: share a run with programs and browsers."""

import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import tyro

from ncsn.cli.console import check_output, load_run_of_images
from ncsn.machine.messages import Stopped, log
from ncsn.settings import Given
from ncsn.validation import Port, check_ranges, reason

if TYPE_CHECKING:
    from http.server import ThreadingHTTPServer

PACKAGE = Path(__file__).parents[1]
HEADERS = {  # in addition to the policy in the page's head
    "Cache-Control": "no-cache",  # the model may have changed
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, kw_only=True)
class Export:
    """Export a run's score as an ONNX file, for browsers and programs without PyTorch.

    Args:
        run: The run's folder; mnist for the model in the package; or hf://user/model.
        out: The output file, such as model.onnx. If a smaller network guides the run, it is exported to
            model.guide.onnx next to it.
        overwrite: Replace existing files.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    overwrite: bool = False

    def __call__(self) -> None:
        import ncsn

        check_output(self.out, ".onnx", overwrite=self.overwrite)
        for path in ncsn.export(ncsn.load(self.run, device="cpu"), self.out, overwrite=self.overwrite):
            log.info(f"{path}: {path.stat().st_size / 1e6:.2f} MB, checked against PyTorch")


@dataclass(frozen=True, kw_only=True)
class Play:
    """Serve an interactive page about scores, annealing, training and sampling; Ctrl-C stops it.

    Open the address that is printed. The page is only served to this machine, and loads nothing from the network.

    Args:
        run: A run of images that the page samples from, instead of the model in the package.
        port: The port on 127.0.0.1; 0 for any free port.
    """

    run: Annotated[tyro.conf.Positional[Given[Path]], tyro.conf.arg(metavar="[RUN]")] = None
    port: Port = 8000

    def __post_init__(self) -> None:
        check_ranges(self)

    def __call__(self) -> None:
        import ncsn

        with tempfile.TemporaryDirectory(prefix="ncsn-play-") as temporary:
            folder = page()
            if self.run is not None:  # a copy of the page with another model
                run = load_run_of_images(self.run, "cpu", "the page needs a run of images")
                if (channels := run.recipe.shape[0]) not in (1, 3):
                    raise ValueError(f"{self.run} generates images with {channels} channels; expected grey or RGB")
                copy = Path(temporary) / "page"
                folder = Path(shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.onnx")))
                ncsn.export(run, folder / "model.onnx")
            with server(folder, self.port) as serving:
                print(f"http://127.0.0.1:{serving.server_port}/  (Ctrl-C stops it)", flush=True)
                with suppress(Stopped):
                    serving.serve_forever()


def page(package: Path = PACKAGE) -> Path:
    """The folder of the built page, in the package or in a checkout after ``make site``.

    Raises ValueError with instructions if the page isn't built.
    """
    for folder in (package / "assets" / "page", package.parents[1] / "site"):
        if (folder / "index.html").is_file():
            return folder
    needed = "pip install --editable '.[export]' && make site"
    raise ValueError(f"the page is not built; in a checkout of the source, run {needed} (needs Node 20.19 or later)")


def server(folder: Path, port: int) -> "ThreadingHTTPServer":
    """A server of a folder on 127.0.0.1; ``port`` 0 chooses a free one.  Raises ValueError if the port is taken."""
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer  # importing it takes ten milliseconds

    class Handler(SimpleHTTPRequestHandler):
        # Systems map suffixes differently, and browsers only run scripts and WebAssembly of these types.
        extensions_map = {".css": "text/css", ".js": "text/javascript", ".wasm": "application/wasm"}  # noqa: RUF012

        def handle(self) -> None:
            # The browser may close the connection early, or ask for an invalid path such as /%00.
            with suppress(ConnectionError, ValueError):
                super().handle()

        def send_head(self) -> BinaryIO | None:
            host = self.headers.get("Host", "").removesuffix(f":{self.connection.getsockname()[1]}")
            if host in ("127.0.0.1", "localhost"):
                return super().send_head()
            # DNS rebinding: another site has pointed its own name at this machine.
            self.send_error(403, "only 127.0.0.1 and localhost are served")
            return None

        def end_headers(self) -> None:
            for name, value in HEADERS.items():
                self.send_header(name, value)
            super().end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Don't log requests."""

    try:
        return ThreadingHTTPServer(("127.0.0.1", port), lambda *args: Handler(*args, directory=str(folder)))
    except OSError as error:
        raise ValueError(f"port {port} is not available ({reason(error)}); choose another, or 0 for any") from error
