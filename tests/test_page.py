"""The page: what it is tested against; and its local server, of its folder alone and for this machine alone."""

import importlib.util
import json
import re
import signal
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import closing, nullcontext
from http.client import HTTPConnection, HTTPMessage, RemoteDisconnected
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from helpers import Patch, Printed, image_run, refusal, run_ncsn, zero_score

import ncsn
from ncsn.cli import share

ROOT = Path(__file__).parent.parent
HOME = b"<!doctype html><title>it</title>"
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
Look = Callable[[int], None]
Show = Callable[..., None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A built page, with secrets around it."""
    place = tmp_path / "site"
    (place / "assets").mkdir(parents=True)
    (place / "index.html").write_bytes(HOME)
    (place / "assets" / "it.js").write_bytes(b"export {};")
    (place / "assets" / "it.wasm").write_bytes(b"\0asm")
    (tmp_path / "secret.txt").write_text("secret")
    return place


@pytest.fixture
def show(folder: Path, monkeypatch: Patch) -> Show:
    """Runs ``ncsn play`` with these words, looks at the page, whose port is given, and types Ctrl-C."""
    serve_forever = ThreadingHTTPServer.serve_forever

    def show(*words: str, look: Look) -> None:
        def serve(server: ThreadingHTTPServer) -> None:
            assert server.server_address[0] == "127.0.0.1"
            thread = threading.Thread(target=serve_forever, args=(server, 0.01))
            thread.start()
            try:
                look(server.server_port)
            finally:
                server.shutdown()
                thread.join()
            signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", serve)
        run_ncsn("play", *words, "--port", "0")

    monkeypatch.setattr(share, "page", lambda: folder)
    return show


def ask(port: int, path: str, *, host: str | None = None, method: str = "GET") -> tuple[int, HTTPMessage, bytes]:
    """What the server answers to exactly this path."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request(method, path, headers={"Host": f"127.0.0.1:{port}" if host is None else host})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def test_the_page_is_served_by_both_names_of_this_machine_and_by_no_other(show: Show, capfd: Printed) -> None:
    def look(port: int) -> None:
        for path, options, status, kind, content in (
            ("/", {}, 200, "text/html", HOME),
            ("/", {"host": f"localhost:{port}"}, 200, "text/html", HOME),
            ("/", {"method": "HEAD"}, 200, "text/html", b""),
            ("/assets/it.js?v=1", {}, 200, "text/javascript", b"export {};"),
            ("/assets/it.wasm", {}, 200, "application/wasm", b"\0asm"),
            ("/../secret.txt", {}, 404, "text/html", None),
            ("/", {"host": "evil.example"}, 403, "text/html", None),
            ("/", {"host": "127.0.0.1:1"}, 403, "text/html", None),
        ):
            actual, headers, body = ask(port, path, **options)
            assert (actual, headers["Content-Type"].partition(";")[0]) == (status, kind)
            assert content in (body, None)
            assert {name: headers[name] for name in HEADERS} == HEADERS

    show(look=look)
    assert capfd.readouterr().err == ""


def test_a_browser_that_does_not_wait_and_a_path_that_is_none_are_no_errors(
    show: Show, folder: Path, capfd: Printed
) -> None:
    (folder / "large.bin").write_bytes(bytes(2**25))

    def look(port: int) -> None:
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close by a reset
                connection.sendall(f"GET /large.bin HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
                assert connection.recv(10)
        with pytest.raises(RemoteDisconnected):
            ask(port, "/%00")
        assert ask(port, "/large.bin")[0] == 200

    show(look=look)
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
        share.page(package)
    for place in (tmp_path / "site", package / "assets" / "page"):  # the package's own comes first
        place.mkdir(parents=True)
        (place / "index.html").touch()
        assert share.page(package) == place


Play = Callable[..., list[bytes]]


@pytest.fixture
def play(folder: Path, show: Show, monkeypatch: Patch, capsys: Printed) -> Play:
    """Run ``ncsn play`` on runs of a shape; returns the model that it serves, and the page."""
    served = list[bytes]()

    def look(port: int) -> None:
        """The user looks at the address that is printed."""
        assert f"http://127.0.0.1:{port}/" in capsys.readouterr().out
        model = ask(port, "/model.onnx")[2]
        guide, _, _ = ask(port, "/model.guide.onnx")
        assert guide == (200 if model == b"ours" else 404), "no guide of another model"
        served.extend([model, ask(port, "/")[2]])

    def play(*words: str, shape: tuple[int, ...] = (1, 4, 4)) -> list[bytes]:
        if len(shape) == 3:
            run = image_run(zero_score, (shape[0], *shape[1:]), sigma_max=1.0, sigma_min=0.1)
        else:
            run = ncsn.Run.of(zero_score, shape, sigma_max=1.0, sigma_min=0.1)
        monkeypatch.setattr(ncsn, "load", lambda *_, device: run, raising=False)
        show(*words, look=look)
        return served

    for name in ("model.onnx", "model.guide.onnx"):
        (folder / name).write_bytes(b"ours")
    monkeypatch.setattr(ncsn, "export", lambda run, out: out.write_bytes(b"own"), raising=False)
    return play


@pytest.mark.parametrize(("words", "model"), [([], b"ours"), (["it"], b"own")])
def test_the_page_is_served_with_the_model_that_is_asked_for_until_ctrl_c(
    words: list[str], model: bytes, play: Play, capsys: Printed
) -> None:
    assert play(*words) == [model, HOME]
    assert "error" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ((2,), "the page needs a run of images"),
        ((1, 16), "the page needs a run of images"),
        ((2, 4, 4), "it generates images with 2 channels; expected grey or RGB"),
        ((3, 4, 4), ""),
    ],
)
def test_the_page_draws_with_runs_of_images(shape: tuple[int, ...], why: str, play: Play, capsys: Printed) -> None:
    with pytest.raises(SystemExit, match=r"^2$") if why else nullcontext():
        play("it", shape=shape)
    assert why in capsys.readouterr().err


def test_a_port_that_is_used_is_named(folder: Path, monkeypatch: Patch, capsys: Printed) -> None:
    monkeypatch.setattr(share, "page", lambda: folder)
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = str(used.getsockname()[1])
        assert port in refusal(capsys, "play", "--port", port)


def compare(found: Any, written: Any, at: str) -> None:
    if isinstance(written, dict):
        assert list(found) == list(written), at
        for name, value in written.items():
            compare(found[name], value, f"{at}.{name}")
    elif isinstance(written, list) and written and isinstance(written[0], dict | list):
        assert len(found) == len(written), at
        for i, value in enumerate(written):
            compare(found[i], value, f"{at}[{i}]")
    else:
        largest = max((abs(value) for value in written), default=0) if isinstance(written, list) else abs(written)
        assert found == pytest.approx(written, rel=1e-6, abs=1e-6 * largest), at


def test_the_page_is_tested_against_what_the_package_computes_today() -> None:
    spec = importlib.util.spec_from_file_location("page_values", ROOT / "web" / "test" / "values.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    compare(script.values(), json.loads(script.PLACE.read_text(encoding="utf-8")), "values")
