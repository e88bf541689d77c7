"""The page of ``web/``, once it is built: where it is, and a server that shows it to this machine alone."""

import errno
import sys
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

PACKAGE = Path(__file__).parent
USUAL_PORT = 80  # of HTTP
MODELS = ("model.onnx", "model.guide.onnx")  # beside the page, as `ncsn export` calls them
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "worker-src 'self'; base-uri 'none'; form-action 'none'"
)
HEADERS = {
    "Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
TYPES = {
    ".css": "text/css",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    "": "application/octet-stream",
}


def built(package: Path = PACKAGE) -> Path:
    """The folder of the built page: in the ``package``, or where ``make site`` puts it beside a checkout's sources.

    Raises ValueError, which says how to build it, if there is none.
    """
    root = package.parents[1]
    checkout = (root / "web" / "package.json").is_file()
    for folder in [package / "assets" / "page", *([root / "site"] if checkout else [])]:
        if (folder / "index.html").is_file():
            return folder
    if checkout:
        raise ValueError(f"the page is not built yet; `make -C {root} site` builds it (it needs Node 20.19 or later)")
    raise ValueError(
        "this installation has no page; in the folder of the sources, `make wheel && pip install --force-reinstall "
        "--no-deps dist/ncsn-*.whl` gives it one (it needs Node 20.19 or later)"
    )


class Handler(SimpleHTTPRequestHandler):
    """Answers with files of one folder, and only to who asks for this machine by its own name.

    ``models``: another folder, whose ``MODELS`` take the place of the page's.
    """

    extensions_map = TYPES  # of its own, for a system's table can be anything
    server_version, sys_version = "ncsn", ""

    def __init__(self, *args: Any, models: Path | None, **rest: Any) -> None:
        self.models = models
        super().__init__(*args, **rest)

    def send_head(self) -> BytesIO | BinaryIO | None:
        """The file that is asked for, if it is in the folder; links out of it are not followed."""
        if self.headers.get("Host") not in self.own_names():  # or a page elsewhere has given us a name of its own
            self.send_error(HTTPStatus.FORBIDDEN, "only 127.0.0.1 and localhost are served")
            return None
        target = Path(self.translate_path(self.path)).resolve()
        folders = [Path(self.directory), *([self.models] if self.models else [])]
        inside = any(target.is_relative_to(folder.resolve()) for folder in folders)
        if not (inside and (target.is_file() or (target / "index.html").is_file())):
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return super().send_head()

    def translate_path(self, path: str) -> str:
        """Where the file is that an address names."""
        place = super().translate_path(path)
        instead = {str(Path(self.directory) / name): str(self.models / name) for name in MODELS} if self.models else {}
        return instead.get(place, place)

    def own_names(self) -> list[str]:
        """What this machine calls the server; who asks at the usual port leaves it out."""
        _, port, *_ = self.request.getsockname()
        ends = [f":{port}", *([""] if port == USUAL_PORT else [])]
        return [f"{name}{end}" for name in ("127.0.0.1", "localhost") for end in ends]

    def end_headers(self) -> None:
        """The headers that keep a page to itself, on every answer."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of requests."""


class Server(ThreadingHTTPServer):
    """A server whose clients may go whenever they like."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that does not wait for an answer; anything else is a mistake of ours."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def server(folder: Path, port: int, *, models: Path | None = None) -> Server:
    """A server of a ``folder`` on 127.0.0.1, whose ``serve_forever`` answers; ``port`` 0 stands for any free one.

    ``models``: a folder whose ``MODELS`` are shown instead of the page's own.
    Raises OSError, which names the port, if it cannot be had.
    """
    try:
        return Server(("127.0.0.1", port), partial(Handler, directory=str(folder), models=models))
    except OSError as error:
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be had ({error.strerror})"
        raise OSError(f"port {port} {why}; --port 0 takes any that is free") from error
