"""The local server of the page: its folder alone, this machine alone, and headers that keep it so."""

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from types import SimpleNamespace

import pytest

import ncsn
from ncsn import page
from ncsn.cli import main as cli
from ncsn.cli.share import put_models
from ncsn.model import ScoreModel
from ncsn.networks import MLP, UNet
from ncsn.recipe import Argument, Recipe
from ncsn.run import Run
from ncsn.sampling import Sampling

ROOT = Path(__file__).parent.parent
HOME = b"<!doctype html><title>it</title>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "site"
    (place / "assets").mkdir(parents=True)
    (place / "index.html").write_bytes(HOME)
    (place / "assets" / "it.js").write_bytes(b"export {};")
    (place / "out.txt").symlink_to("../secret.txt")
    (tmp_path / "secret.txt").write_text("secret")
    return place


@contextmanager
def serving(folder: Path, models: Path | None = None) -> Iterator[int]:
    """The port of a server."""
    with page.server(folder, 0, models=models) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def port(folder: Path) -> Iterator[int]:
    with serving(folder) as port:
        yield port


def ask(port: int, path: str, *, host: str | None = None, method: str = "GET") -> tuple[int, Message, bytes]:
    """What the server answers to exactly this path: libraries would tidy it up."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        name = f"127.0.0.1:{port}" if host is None else host
        connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    status, _, headers = head.partition(b"\r\n")
    return int(status.split()[1]), message_from_bytes(headers), body


@pytest.mark.parametrize(("number", "bare"), [(80, True), (8080, False)])
def test_at_the_usual_port_names_need_no_number(number: int, bare: bool) -> None:
    asked = SimpleNamespace(request=SimpleNamespace(getsockname=lambda: ("127.0.0.1", number)))
    names = page.Handler.own_names(asked)  # type: ignore[arg-type]
    assert ("localhost" in names, "127.0.0.1" in names) == (bare, bare)
    assert f"localhost:{number}" in names


def test_the_page_is_served(port: int) -> None:
    status, headers, body = ask(port, "/")
    assert (status, headers["Content-Type"], body) == (200, "text/html; charset=utf-8", HOME)
    status, headers, body = ask(port, "/assets/it.js?v=1")
    assert (status, headers["Content-Type"], body) == (200, "text/javascript", b"export {};")
    assert ask(port, "/", host=f"localhost:{port}")[0] == 200
    assert ask(port, "/", method="HEAD")[2] == b""


def test_a_run_takes_the_place_of_the_pages_model(folder: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    for place in (folder, folder / "assets"):
        for name in page.MODELS:
            (place / name).write_bytes(b"the page's")
    (models / "model.onnx").write_bytes(b"the run's")
    (models / "other.txt").write_bytes(b"secret")
    with serving(folder, models) as port:
        assert ask(port, "/model.onnx")[::2] == (200, b"the run's")
        assert ask(port, "/model.guide.onnx")[0] == 404  # and not the page's: it would be another model's
        assert ask(port, "/assets/model.onnx")[::2] == (200, b"the page's")
        assert ask(port, "/")[::2] == (200, HOME)
        for path in ("/other.txt", "/model.onnx/", "/../models/other.txt", "/model.onnx/../other.txt"):
            assert ask(port, path)[0] == 404
        (models / "model.onnx").unlink()
        (models / "model.onnx").symlink_to(tmp_path / "secret.txt")
        assert ask(port, "/model.onnx")[0] == 404


def a_run(channels: int = 1) -> Run:
    """One of small images, which has a smaller network for a guide."""
    sampling = Sampling(sigma_max=5.0, sigma_min=0.01, sampler="dpmpp", levels=4, steps=1, eps=5e-5, guidance=2.0)
    arguments: dict[str, Argument] = {"image_channels": channels, "channels": (4,), "blocks": 1, "features": 4}
    recipe = Recipe(network="UNet", arguments=arguments, shape=(channels, 6, 5), sampling=sampling)
    score, guide = (ScoreModel(UNet(channels, (4,), 1, 4), 0.4, 0.3) for _ in range(2))
    return Run(score=score, recipe=recipe, guide=guide)


@pytest.mark.slow
def test_a_run_is_exported_for_the_page_and_a_file_taken_as_it_is(tmp_path: Path) -> None:
    run, first, second = a_run(), tmp_path / "first", tmp_path / "second"
    run.save(tmp_path / "run")
    for place in (first, second):
        place.mkdir()
    put_models(tmp_path / "run", first)
    assert sorted(path.name for path in first.iterdir()) == sorted(page.MODELS)
    card = ncsn.exporting.read(first / "model.onnx")
    assert (card.run, card.precision) == (run.digest, "fp32")  # of which no rounding is refused
    (first / "model.onnx").rename(first / "mine.onnx")
    (first / "model.guide.onnx").rename(first / "mine.guide.onnx")
    put_models(first / "mine.onnx", second)
    for mine, name in zip(("mine.onnx", "mine.guide.onnx"), page.MODELS, strict=True):
        assert (second / name).read_bytes() == (first / mine).read_bytes()


def test_what_cannot_be_shown_is_said_in_one_line(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ncsn.page.built", lambda: folder)
    points = Recipe(network="MLP", arguments={"dimensions": 2}, shape=(2,), sampling=a_run().recipe.sampling)
    Run(score=ScoreModel(MLP(2)), recipe=points).save(tmp_path / "points")
    a_run(channels=2).save(tmp_path / "two")
    a_run().save(tmp_path / "run")

    def refused(run: str, said: str = "") -> str:
        with pytest.raises(SystemExit) as stop:
            cli.main(["play", str(tmp_path / run), "--no-browser", "--port", "0"])
        assert stop.value.code == 2
        printed = capsys.readouterr()
        assert (printed.out, printed.err.count("\n")) == (said, 1)
        return printed.err

    assert "points makes examples of shape (2,); the page shows images, grey or in three colours" in refused("points")
    assert "two makes examples of shape (2, 6, 5); the page shows" in refused("two")
    assert "nowhere is no run" in refused("nowhere")
    assert "nowhere.onnx is no file" in refused("nowhere.onnx")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    said = f"{tmp_path / 'run'} is being exported for the page\n"
    assert "export needs onnxscript: pip install 'ncsn[export]'" in refused("run", said)


PATHS = (
    "/../secret.txt",
    "/%2e%2e/secret.txt",
    "/assets/../../secret.txt",
    "/..%2fsecret.txt",
    "//../secret.txt",
    "/..\\secret.txt",
    "/out.txt",
    "/assets",
    "/assets/",
    "/nowhere",
    "/index.html/",
)


@pytest.mark.parametrize("path", [*PATHS, str(ROOT / "pyproject.toml")])
def test_nothing_else_is(port: int, path: str) -> None:
    status, headers, body = ask(port, path)
    assert status == 404
    assert b"secret" not in body.replace(path.encode(), b"")
    assert headers["Content-Security-Policy"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_it_only_reads(port: int, method: str) -> None:
    assert ask(port, "/", method=method)[0] == 501


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", ""])
def test_a_name_that_is_not_its_own_is_refused(port: int, host: str) -> None:
    assert ask(port, "/", host=host)[0] == 403


def test_every_answer_keeps_the_page_to_itself(port: int) -> None:
    for path in ("/", "/nowhere"):
        _, headers, _ = ask(port, path)
        assert {name: headers[name] for name in page.HEADERS} == page.HEADERS
    policy = page.HEADERS["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert not re.search("unsafe|http|\\*|data:", policy.replace("'wasm-unsafe-eval'", "", 1))


def test_the_page_says_the_same_policy_where_it_is_served_by_others() -> None:
    text = (ROOT / "web" / "index.html").read_text(encoding="utf-8")
    found = re.search(r'http-equiv="Content-Security-Policy"\s+content="([^"]*)"', text)
    assert found is not None
    assert found[1] == page.POLICY
    assert not re.search(r"<script(?![^>]*\ssrc=)|<style| style=| on\w+=", text)


def test_only_this_machine_is_answered(port: int) -> None:
    with socket.socket() as probe:
        probe.connect(("127.0.0.1", port))
        assert probe.getpeername()[0] == "127.0.0.1"
    others = {found[4][0] for found in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)} - {"127.0.0.1"}
    for address in [*others, "127.0.0.2"]:
        with pytest.raises(OSError, match=r"refused|unreachable|timed out"):
            socket.create_connection((str(address), port), timeout=2)


def test_a_browser_that_does_not_wait_is_no_error(port: int, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "large.bin").write_bytes(bytes(2**25))
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close by a reset
            connection.sendall(f"GET /large.bin HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            assert connection.recv(10)
    assert ask(port, "/large.bin")[0] == 200
    assert capfd.readouterr().err == ""


def test_a_port_that_is_taken_is_named(
    port: int, capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ncsn.page.built", lambda: folder)
    with pytest.raises(SystemExit) as stop:
        cli.main(["play", "--no-browser", "--port", str(port)])
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: port {port} is in use; --port 0 takes any that is free\n"


def test_a_page_that_is_not_built_says_how(tmp_path: Path) -> None:
    package = tmp_path / "src" / "ncsn"
    with pytest.raises(ValueError, match=r"^this installation has no page; [^\n]*`make wheel && pip install [^\n]*$"):
        page.built(package)
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "package.json").touch()
    with pytest.raises(
        ValueError, match=rf"^the page is not built yet; `make -C {re.escape(str(tmp_path))} site` [^\n]*$"
    ):
        page.built(package)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").touch()
    assert page.built(package) == tmp_path / "site"
    (package / "assets" / "page").mkdir(parents=True)
    (package / "assets" / "page" / "index.html").touch()
    assert page.built(package) == package / "assets" / "page"


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent")
@pytest.mark.parametrize(
    ("number", "status", "said"), [(signal.SIGINT, 0, ""), (signal.SIGTERM, 143, "error: terminated\n")]
)
def test_the_command_serves_until_it_is_interrupted(
    number: int, status: int, said: str, folder: Path, tmp_path: Path
) -> None:
    """With a browser that writes what it is asked to open."""
    seen, browser = tmp_path / "seen.txt", tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {seen}.partial; mv {seen}.partial {seen}\n')
    browser.chmod(0o755)
    start = (
        "import pathlib, ncsn.page, ncsn.cli.main\n"
        f"ncsn.page.built = lambda: pathlib.Path({str(folder)!r})\n"
        "ncsn.cli.main(['play', '--port', '0'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", start],
        env=os.environ | {"BROWSER": str(browser)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    found = re.fullmatch(r"(http://127\.0\.0\.1:\d+/)  \(Ctrl-C ends it\)\n", process.stdout.readline())
    assert found is not None
    with urllib.request.urlopen(found[1], timeout=10) as answer:
        assert answer.read() == HOME
    for _ in range(200):
        if seen.exists():
            break
        threading.Event().wait(0.05)
    assert seen.read_text() == found[1]
    process.send_signal(number)
    _, error = process.communicate(timeout=20)
    assert (process.returncode, error) == (status, said)
