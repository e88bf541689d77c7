"""The page: what it is tested against; and its local server, of its folder alone and for this machine alone."""

import importlib.util
import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from http.client import HTTPConnection, HTTPMessage, RemoteDisconnected
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from helpers import Patch, Printed, refusal, zero_score

import ncsn
from ncsn.cli import share
from ncsn.cli.commands import main
from ncsn.machine.messages import Stopped

ROOT = Path(__file__).parent.parent
HOME = b"<!doctype html><title>it</title>"


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
def port(folder: Path) -> Iterator[int]:
    with share.server(folder, 0) as server:
        assert server.server_address[0] == "127.0.0.1"
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


def test_the_page_is_served_by_both_names_of_this_machine_and_by_no_other(port: int, capfd: Printed) -> None:
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
        assert {name: headers[name] for name in share.HEADERS} == share.HEADERS
    assert capfd.readouterr().err == ""


def test_a_browser_that_does_not_wait_and_a_path_that_is_none_are_no_errors(
    port: int, folder: Path, capfd: Printed
) -> None:
    (folder / "large.bin").write_bytes(bytes(2**25))
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close by a reset
            connection.sendall(f"GET /large.bin HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            assert connection.recv(10)
    with pytest.raises(RemoteDisconnected):
        ask(port, "/%00")
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
        share.page(package)
    for place in (tmp_path / "site", package / "assets" / "page"):  # the package's own comes first
        place.mkdir(parents=True)
        (place / "index.html").touch()
        assert share.page(package) == place


Play = Callable[..., list[bytes]]


@pytest.fixture
def play(folder: Path, monkeypatch: Patch, capsys: Printed) -> Play:
    """Run ``ncsn play`` on runs of a shape; returns the model that it serves, and the page."""
    served, server = list[bytes](), share.server

    def look(server: ThreadingHTTPServer) -> None:
        """The user looks at the address, and types Ctrl-C."""
        assert f"http://127.0.0.1:{server.server_port}/" in capsys.readouterr().out
        raise Stopped(2)

    def serve(place: Path, port: int) -> ThreadingHTTPServer:
        ours = (place / "model.onnx").read_bytes() == b"ours"
        assert (place / "model.guide.onnx").exists() == ours, "no guide of another model"
        served.extend([(place / "model.onnx").read_bytes(), (place / "index.html").read_bytes()])
        return server(place, port)

    def play(*words: str, shape: tuple[int, ...] = (1, 4, 4)) -> list[bytes]:
        run = ncsn.Run.of(zero_score, shape, sigma_max=1.0, sigma_min=0.1)
        monkeypatch.setattr(ncsn, "load", lambda *_, device: run, raising=False)
        main(["play", *words, "--port", "0"])
        return served

    for name in ("model.onnx", "model.guide.onnx"):
        (folder / name).write_bytes(b"ours")
    monkeypatch.setattr(share, "page", lambda: folder)
    monkeypatch.setattr(share, "server", serve)
    monkeypatch.setattr(ncsn, "export", lambda run, out: out.write_bytes(b"own"), raising=False)
    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", look)
    return play


@pytest.mark.parametrize(("words", "model"), [([], b"ours"), (["it"], b"own")])
def test_the_page_is_served_with_the_model_that_is_asked_for_until_ctrl_c(
    words: list[str], model: bytes, play: Play, capsys: Printed
) -> None:
    assert play(*words) == [model, HOME]
    assert "error" not in capsys.readouterr().err


@pytest.mark.parametrize(("shape", "status"), [((2,), 2), ((1, 16), 2), ((2, 4, 4), 2), ((3, 4, 4), 0)])
def test_the_page_draws_with_runs_of_images(shape: tuple[int, ...], status: int, play: Play) -> None:
    with pytest.raises(SystemExit, match=f"^{status}$") if status else nullcontext():
        play("it", shape=shape)


def test_a_port_that_is_used_is_named(folder: Path, monkeypatch: Patch, capsys: Printed) -> None:
    monkeypatch.setattr(share, "page", lambda: folder)
    with share.server(folder, 0) as used:
        assert f"{used.server_port}" in refusal(capsys, "play", "--port", str(used.server_port))


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
