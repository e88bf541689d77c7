"""``ncsn export``, ``ncsn play`` and ``ncsn push``: share a run with programs, browsers and people."""

import re
import shutil
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Annotated, BinaryIO

import tyro

from ncsn.cli.console import Options, check_output, require
from ncsn.learn.settings import Given
from ncsn.machine.interrupts import Stopped
from ncsn.validation import Port, reason

if TYPE_CHECKING:
    from http.server import ThreadingHTTPServer

    from ncsn import Run

PACKAGE = Path(__file__).parents[1]
HEADERS = {  # in addition to the policy in the page's head
    "Cache-Control": "no-cache",  # the model may have changed
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
CARD = """\
---
library_name: ncsn
---

A noise conditional score network. After `pip install 'ncsn[hub]'`, `ncsn.load("hf://{}").sample(16)` draws samples.
"""


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
            print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, checked against PyTorch")


@dataclass(frozen=True, kw_only=True)
class Play(Options):
    """Serve an interactive page about scores, annealing, training and sampling; Ctrl-C stops it.

    Open the address that is printed. The page is only served to this machine, and loads nothing from the network.

    Args:
        run: A run of images that the page samples from, instead of the model in the package.
        port: The port on 127.0.0.1; 0 for any free port.
    """

    run: Annotated[tyro.conf.Positional[Given[Path]], tyro.conf.arg(metavar="[RUN]")] = None
    port: Port = 8000

    def __call__(self) -> None:
        import ncsn

        with tempfile.TemporaryDirectory(prefix="ncsn-play-") as temporary:
            folder = page()
            if self.run is not None:  # a copy of the page with another model
                run, own = ncsn.load(self.run, device="cpu"), Path(temporary) / "page"
                require(run, "images", self.run, "the page needs a run of images")
                if (channels := run.recipe.shape[0]) not in (1, 3):
                    raise ValueError(f"{self.run} generates images with {channels} channels; expected grey or RGB")
                folder = Path(shutil.copytree(folder, own, ignore=shutil.ignore_patterns("*.onnx")))
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


@dataclass(frozen=True, kw_only=True)
class Push:
    """Share a run on the Hugging Face hub: its configuration, weights and metrics, with a model card.

    The run is private unless you pass --public.  Log in first with `hf auth login`, or set HF_TOKEN.

    Args:
        run: The run's folder, such as runs/mnist; or mnist for the model in the package.
        to: The name on the hub. Every command, and ncsn.load, then accepts hf://USER/MODEL. If the name is taken by
            another run of yours, a new commit replaces it; the old one stays in the git history.
        public: Let everybody see and load the run; by default only you can.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    to: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="USER/MODEL")]
    public: bool = False

    def __call__(self) -> None:
        """Upload the run as one commit.

        Raises ValueError if the hub can't be reached or refuses, or if the model there is private and should be public,
        or vice versa.
        """
        import ncsn
        from ncsn.run.folder import SHARED, library_for

        run = ncsn.load(self.run, device="cpu")
        links = [name for name in ("guide", *SHARED[:-1]) if (self.run / name).is_symlink()]
        if links:
            raise ValueError(f"{self.run / links[0]} is a link; replace it with a copy of the file to share it")
        with tempfile.TemporaryDirectory(prefix="ncsn-push-") as folder, library_for(self.to) as library:
            names = write_shared(run, Path(folder), self.to)
            api = library.HfApi(token=True)  # if there is none, the library explains how to get one
            api.create_repo(self.to, private=not self.public, exist_ok=True)
            if api.model_info(self.to).private == self.public:
                raise ValueError("it exists with the other visibility, public or private; change that on its page")
            # Files of the previous run that this one lacks are deleted; files that don't belong to runs stay.
            patterns = {"allow_patterns": SHARED, "delete_patterns": SHARED}
            commit = api.upload_folder(repo_id=self.to, folder_path=folder, commit_message="A run of ncsn", **patterns)
        print(f"hf://{self.to}@{commit.oid}: {', '.join(names)}, {'public' if self.public else 'private'}")


def write_shared(run: "Run", out: Path, model: str) -> list[str]:
    """Write the files of a loaded run that are shared, and a model card for user/``model``; returns their names.

    Paths in JSON are cut down to their last part, so that the folders of this machine aren't published.  An evaluation
    of other weights is left out.
    Raises ValueError if a JSON file can't be read.
    """
    from ncsn.run.folder import SHARED, digest_of
    from ncsn.storage import write_json
    from ncsn.validation import read_json

    folder, names = run.folder or Path(), list[str]()
    for name in SHARED[:-1]:  # the last is the model card
        if not (folder / name).is_file() or (run.guide is None and name.startswith("guide/")):
            continue
        (out / name).parent.mkdir(exist_ok=True)
        if not name.endswith(".json"):
            shutil.copyfile(folder / name, out / name)
        else:
            content = read_json(folder / name)
            if content.get("run_digest", run.digest) != run.digest:
                print(f"{folder / name} is left out: it describes an earlier state of the run", file=sys.stderr)
                continue
            digest = content.pop("sha256", None)
            # A recipe has no paths, but it has the user's column names and categories, which may look like some.
            shared = {key: v if key == "recipe" else without_folders(v) for key, v in content.items()}
            write_json(out / name, shared | ({} if digest is None else {"sha256": digest_of(shared)}))
        names.append(name)
    (out / SHARED[-1]).write_text(CARD.format(model), encoding="utf-8")
    return [*names, SHARED[-1]]


def without_folders(value: object, path: str = r"[/\\]") -> object:
    """JSON content with every path cut down to its last part.

    In lists, which hold sentences and column names such as km/h, a path must begin like one.
    """
    if isinstance(value, dict):
        return {name: without_folders(item) for name, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item, r"^(~|\.\.?|\w:)?[/\\]") for item in value]
    return PureWindowsPath(value).name if isinstance(value, str) and re.search(path, value) else value
