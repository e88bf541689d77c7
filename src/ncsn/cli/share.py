"""``ncsn export``, ``ncsn play`` and ``ncsn push``: a run for other programs, for the browser, and for other people."""

import re
import shutil
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ncsn.cli.console import Options, check_output, require
from ncsn.learn.settings import Given
from ncsn.machine.interrupts import Stopped
from ncsn.validation import Port, reason

if TYPE_CHECKING:
    from http.server import ThreadingHTTPServer

    from ncsn import Run

PACKAGE = Path(__file__).parents[1]
HEADERS = {  # beside the policy in the page's own head
    "Cache-Control": "no-cache",  # a browser asks whether it has the model of today
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
    """Write a run's score as an ONNX file, for browsers and other programs without PyTorch.

    Args:
        run: The run's folder; mnist, the model that comes with the package; or hf://user/model.
        out: The file, such as model.onnx. If a smaller network guides the run, it goes into model.guide.onnx beside it.
        overwrite: Replace existing files.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    overwrite: bool = False

    def __call__(self) -> None:
        """Export, compare with PyTorch, and print how large the files are."""
        import ncsn

        check_output(self.out, ".onnx", overwrite=self.overwrite)
        for path in ncsn.export(ncsn.load(self.run, device="cpu"), self.out, overwrite=self.overwrite):
            print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, compared with PyTorch")


@dataclass(frozen=True, kw_only=True)
class Play(Options):
    """Serve the page on which scores, annealing, learning and sampling can be tried by hand; Ctrl-C ends it.

    It is served to this machine alone, and asks nothing of the network: open the address that is printed.

    Args:
        run: A run of images, for the page to draw with, instead of the model that comes with the package.
        port: The port on 127.0.0.1; 0 for any that is free.
    """

    run: Annotated[tyro.conf.Positional[Given[Path]], tyro.conf.arg(metavar="[RUN]")] = None
    port: Port = 8000

    def __call__(self) -> None:
        """Serve the page until Ctrl-C."""
        import ncsn

        with tempfile.TemporaryDirectory(prefix="ncsn-play-") as temporary:
            folder = page()
            if self.run is not None:  # the page again, but for its model
                run, own = ncsn.load(self.run, device="cpu"), Path(temporary) / "page"
                require(run, "images", self.run, "the page draws with runs of images")
                if (channels := run.recipe.shape[0]) not in (1, 3):
                    raise ValueError(f"{self.run} makes images of {channels} channels; the page draws grey and RGB")
                folder = Path(shutil.copytree(folder, own, ignore=shutil.ignore_patterns("*.onnx")))
                ncsn.export(run, folder / "model.onnx")
            with server(folder, self.port) as serving:
                print(f"http://127.0.0.1:{serving.server_port}/  (Ctrl-C ends it)", flush=True)
                with suppress(Stopped):
                    serving.serve_forever()


def page(package: Path = PACKAGE) -> Path:
    """The folder of the built page: in the ``package``, or where ``make site`` puts it beside a checkout's sources.

    Raises ValueError, which says how to build it, if there is none.
    """
    for folder in (package / "assets" / "page", package.parents[1] / "site"):
        if (folder / "index.html").is_file():
            return folder
    needed = "pip install --editable '.[export]' && make site"
    raise ValueError(f"the page is not built; in the folder of the sources, {needed} builds it (Node 20.19 or later)")


def server(folder: Path, port: int) -> "ThreadingHTTPServer":
    """A server of a ``folder`` on 127.0.0.1 to who asks for this machine by its own name; ``port`` 0: any free one.

    Raises ValueError for a port that is not free.
    """
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer  # ten milliseconds of every command

    class Handler(SimpleHTTPRequestHandler):
        # A system's own table can be anything, and browsers run no script or WebAssembly that is called something else.
        extensions_map = {".css": "text/css", ".js": "text/javascript", ".wasm": "application/wasm"}  # noqa: RUF012

        def handle(self) -> None:
            # A browser that does not wait for an answer, and a path that is none, such as /%00.
            with suppress(ConnectionError, ValueError):
                super().handle()

        def send_head(self) -> Any:
            host = self.headers.get("Host", "").removesuffix(f":{self.connection.getsockname()[1]}")
            if host in ("127.0.0.1", "localhost"):
                return super().send_head()
            # A page elsewhere has given this machine a name of its own.
            return self.send_error(403, "only 127.0.0.1 and localhost are served")

        def end_headers(self) -> None:
            for name, value in HEADERS.items():
                self.send_header(name, value)
            super().end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing of requests."""

    try:
        return ThreadingHTTPServer(("127.0.0.1", port), lambda *args: Handler(*args, directory=str(folder)))
    except OSError as error:
        raise ValueError(f"port is {port} ({reason(error)}); give another --port, or 0 for any that is free") from error


@dataclass(frozen=True, kw_only=True)
class Push:
    """Share a run on Hugging Face's hub: its configuration, weights and numbers, with a model card that is written.

    Privately, unless --public says otherwise.  Your token is the library's affair: `hf auth login`, or HF_TOKEN.

    Args:
        run: The run's folder, such as runs/mnist; or mnist, the model that comes with the package.
        to: The name there. Every command and ncsn.load then know the run as hf://USER/MODEL. If another run has this
            name, a further commit replaces it; git keeps the former.
        public: Let everybody see and load it; by default only you can.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    to: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="USER/MODEL")]
    public: bool = False

    def __call__(self) -> None:
        """Read the run, and send it as one commit.

        Raises ValueError if the hub cannot be asked or refuses, or if a model is there that is not as ``public``.
        """
        import ncsn
        from ncsn.run.folder import SHARED, library_for

        run = ncsn.load(self.run, device="cpu")
        links = [name for name in ("guide", *SHARED[:-1]) if (self.run / name).is_symlink()]
        if links:  # the hub's own cache is full of them, but is not what a user names
            raise ValueError(f"{self.run / links[0]} is a link, to what may not be meant; to share it, copy the file")
        with tempfile.TemporaryDirectory(prefix="ncsn-push-") as folder, library_for(self.to) as library:
            names = write_shared(run, Path(folder), self.to)
            api = library.HfApi(token=True)  # without one the library says where to get it
            api.create_repo(self.to, private=not self.public, exist_ok=True)
            if api.model_info(self.to).private == self.public:
                raise ValueError("it is not as private as you ask for; change that on its page, or push it as it is")
            # What is there of another run and not of this goes; files that are no part of a run stay.
            patterns = {"allow_patterns": SHARED, "delete_patterns": SHARED}
            commit = api.upload_folder(repo_id=self.to, folder_path=folder, commit_message="A run of ncsn", **patterns)
        print(f"hf://{self.to}@{commit.oid}: {', '.join(names)}, {'public' if self.public else 'private'}")


def write_shared(run: "Run", out: Path, model: str) -> list[str]:
    """Write into ``out`` what is shared of a run that was loaded, a model card too; returns the files' names.

    In JSON every path is cut down to its last part: nobody needs to know this machine's folders.  An evaluation of
    other weights is left out.  ``model``: user/model.
    Raises ValueError if a file of numbers cannot be read.
    """
    from ncsn.run.folder import SHARED, digest_of
    from ncsn.storage import write_json
    from ncsn.validation import read_json

    folder, names = run.folder or Path(), list[str]()
    for name in SHARED[:-1]:  # the last is the card
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
            # A recipe has no paths, but names and texts of the user's columns.
            shared = {key: v if key == "recipe" else without_folders(v) for key, v in content.items()}
            write_json(out / name, shared | ({} if digest is None else {"sha256": digest_of(shared)}))
        names.append(name)
    (out / SHARED[-1]).write_text(CARD.format(model), encoding="utf-8")
    return [*names, SHARED[-1]]


def without_folders(value: Any, path: str = r"[/\\]") -> Any:
    """The content of a JSON file; of a text that is a path, the last part.

    Lists hold sentences and the names of columns, such as km/h: a path begins like one there.
    """
    if isinstance(value, dict):
        return {name: without_folders(item) for name, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item, r"^(~|\.\.?|\w:)?[/\\]") for item in value]
    return PureWindowsPath(value).name if isinstance(value, str) and re.search(path, value) else value
