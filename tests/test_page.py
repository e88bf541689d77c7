"""The local server of the page: its folder alone, this machine alone, and headers that keep it so."""

import queue
import re
import socket
import struct
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPMessage
from pathlib import Path
from typing import Any

import pytest

import ncsn
from ncsn.cli import main as cli
from ncsn.cli import page
from ncsn.machine.interrupts import Stopped
from ncsn.networks import MLP, UNet
from ncsn.run import Recipe, Run
from ncsn.samplers import Sampling
from ncsn.score import ScoreModel

ROOT = Path(__file__).parent.parent
HOME = b"<!doctype html><title>it</title>"
SAMPLING = Sampling(sigma_max=5.0, sigma_min=0.01, sampler="dpmpp", levels=4, steps=1, eps=5e-5, guidance=2.0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A built page, with secrets around it."""
    place = tmp_path / "site"
    (place / "assets").mkdir(parents=True)
    (place / "index.html").write_bytes(HOME)
    (place / "assets" / "it.js").write_bytes(b"export {};")
    (tmp_path / "secret.txt").write_text("secret")
    for name in page.MODELS:
        (place / name).write_bytes(b"the page's")
    monkeypatch.setattr(page, "built", lambda: place)
    return place


@pytest.fixture
def port(folder: Path) -> Iterator[int]:
    with page.server(folder, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def ask(port: int, path: str, *, host: str | None = None, method: str = "GET") -> tuple[int, HTTPMessage, bytes]:
    """What the server answers to exactly this path."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request(method, path, headers={"Host": f"127.0.0.1:{port}" if host is None else host})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def test_the_page_is_served_by_both_names_of_this_machine_and_by_no_other(
    port: int, capfd: pytest.CaptureFixture[str]
) -> None:
    for path, options, status, kind, content in (
        ("/", {}, 200, "text/html", HOME),
        ("/", {"host": f"localhost:{port}"}, 200, "text/html", HOME),
        ("/", {"method": "HEAD"}, 200, "text/html", b""),
        ("/assets/it.js?v=1", {}, 200, "text/javascript", b"export {};"),
        ("/../secret.txt", {}, 404, "text/html", None),
        ("/%00", {}, 404, "text/html", None),
        ("/", {"host": "evil.example"}, 403, "text/html", None),
        ("/", {"host": "127.0.0.1:1"}, 403, "text/html", None),
    ):
        actual, headers, body = ask(port, path, **options)
        assert (actual, headers["Content-Type"].partition(";")[0]) == (status, kind)
        assert content in (body, None)
        assert {name: headers[name] for name in page.HEADERS} == page.HEADERS
    with pytest.raises(OSError, match=r"refused|unreachable|timed out"):
        socket.create_connection(("127.0.0.2", port), timeout=2)
    assert capfd.readouterr().err == ""


def test_a_browser_that_does_not_wait_is_no_error(port: int, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "large.bin").write_bytes(bytes(2**25))
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close by a reset
            connection.sendall(f"GET /large.bin HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            assert connection.recv(10)
    assert ask(port, "/large.bin")[0] == 200
    assert capfd.readouterr().err == ""


def test_the_page_allows_nothing_from_elsewhere() -> None:
    text = (ROOT / "web" / "index.html").read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy"\s+content="([^"]*)"', text)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; ")
    assert not re.search("unsafe|http|\\*|data:", policy[1].replace("'wasm-unsafe-eval'", "", 1))
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style| style=| on\w+=", text)


def test_a_page_that_is_not_built_says_how(tmp_path: Path) -> None:
    package = tmp_path / "src" / "ncsn"
    with pytest.raises(ValueError, match="make site"):
        page.built(package)
    for place in (tmp_path / "site", package / "assets" / "page"):  # the package's own comes first
        place.mkdir(parents=True)
        (place / "index.html").touch()
        assert page.built(package) == place


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs that have not learned: of grey images, of two channels, and of points."""
    place = tmp_path_factory.mktemp("runs")
    for name, network, shape in (
        ("grey", UNet(1, (4,), 1, 4), (1, 6, 5)),
        ("two", UNet(2, (4,), 1, 4), (2, 6, 5)),
        ("points", MLP(2), (2,)),
    ):
        arguments: dict[str, Any] = {"image_channels": shape[0], "channels": (4,), "blocks": 1, "features": 4}
        arguments = arguments if len(shape) == 3 else {"dimensions": 2}
        recipe = Recipe(network=type(network).__name__, arguments=arguments, shape=shape, sampling=SAMPLING)
        Run(score=ScoreModel(network, 0.4, 0.3), recipe=recipe).save(place / name)
    return place


def test_a_run_takes_the_place_of_the_pages_model_until_ctrl_c(
    folder: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a file, the guide beside it, if there is one, and never the page's."""
    (tmp_path / "mine.onnx").write_bytes(b"mine")
    served: list[dict[str, bytes]] = []
    opened: queue.Queue[str] = queue.Queue()
    server_of = page.server

    def look(folder: Path, port: int) -> Any:
        """A server at which the user looks once, and then types Ctrl-C."""

        def serve_forever() -> None:
            served.append(contents(folder))
            raise Stopped(2)

        server = server_of(folder, port)
        server.serve_forever = serve_forever  # type: ignore[assignment]
        return server

    monkeypatch.setattr(ncsn, "export", lambda run, path, precision: path.write_bytes(run.digest.encode()))
    monkeypatch.setattr(page, "server", look)
    monkeypatch.setattr(webbrowser, "open", opened.put)
    for run in ([], [str(tmp_path / "mine.onnx")], [str(runs / "grey")]):
        cli.main(["play", *run, "--port", "0"])
        address = opened.get(timeout=10)
        assert f"{address} " in capsys.readouterr().out
        assert address.endswith("#digits") == bool(run)
    (tmp_path / "mine.guide.onnx").write_bytes(b"my guide")
    cli.main(["play", str(tmp_path / "mine.onnx"), "--port", "0", "--no-browser"])
    assert opened.empty()
    digest = ncsn.load(runs / "grey").digest.encode()
    models = [(files.get("model.onnx"), files.get("model.guide.onnx")) for files in served]
    assert models == [(b"the page's", b"the page's"), (b"mine", None), (digest, None), (b"mine", b"my guide")]
    assert all(files["assets/it.js"] == b"export {};" for files in served)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("points", "of shape (2,); the page shows images"),
        ("two", "of shape (2, 6, 5); the page shows"),
        ("nowhere", "nowhere is no run"),
        ("nowhere.onnx", "nowhere.onnx is no file"),
    ],
)
def test_what_cannot_be_shown_is_one_line(
    name: str, said: str, runs: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["play", "--no-browser", str(runs / name), "--port", "0"])
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert said in printed.err


def test_a_port_that_is_taken_is_named(port: int, folder: Path) -> None:
    with pytest.raises(OSError, match=f"port {port} cannot be had .*; --port 0"):
        page.server(folder, port)
