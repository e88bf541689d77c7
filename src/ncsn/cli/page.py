"""The page of ``web/``, once it is built: where it is, and a server that shows it to this machine alone."""

from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

PACKAGE = Path(__file__).parents[1]
MODELS = ("model.onnx", "model.guide.onnx")  # beside the page, as `ncsn export` calls them
HEADERS = {  # beside the policy in the page's own head
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def built(package: Path = PACKAGE) -> Path:
    """The folder of the built page: in the ``package``, or where ``make site`` puts it beside a checkout's sources.

    Raises ValueError, which says how to build it, if there is none.
    """
    for folder in (package / "assets" / "page", package.parents[1] / "site"):
        if (folder / "index.html").is_file():
            return folder
    raise ValueError(
        "the page is not built; in the folder of the sources `make site` builds it, and `make wheel` a package that "
        "holds it (they need Node 20.19 or later)"
    )


class Handler(SimpleHTTPRequestHandler):
    """Answers with files of one folder, and only to who asks for this machine by its own name."""

    # A system's own table can be anything, and browsers run no script or WebAssembly that is called something else.
    extensions_map = {".css": "text/css", ".js": "text/javascript", ".wasm": "application/wasm"}  # noqa: RUF012
    server_version, sys_version = "ncsn", ""

    def handle(self) -> None:
        """Say nothing of a browser that does not wait for an answer."""
        with suppress(ConnectionError):
            super().handle()

    def send_head(self) -> BytesIO | BinaryIO | None:
        """The file that is asked for, if this machine is called by its own name."""
        host = self.headers.get("Host", "").removesuffix(f":{self.connection.getsockname()[1]}")
        if host not in ("127.0.0.1", "localhost"):  # or a page elsewhere has given this machine a name of its own
            self.send_error(HTTPStatus.FORBIDDEN, "only 127.0.0.1 and localhost are served")
            return None
        if "\0" in unquote(self.path):
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return super().send_head()

    def end_headers(self) -> None:
        """The headers that keep a page to itself, on every answer."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of requests."""


def server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of a ``folder`` on 127.0.0.1, whose ``serve_forever`` answers; ``port`` 0 stands for any free one.

    Raises OSError, which names the port, if it cannot be had.
    """
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, directory=str(folder)))
    except OSError as error:
        raise OSError(f"port {port} cannot be had ({error.strerror}); --port 0 takes any that is free") from error
