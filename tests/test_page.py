"""The local server of the page: its folder alone, this machine alone, and headers that keep it so."""

import queue
import re
import socket
import struct
import threading
import webbrowser
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

import ncsn
from ncsn.cli import main as cli
from ncsn.cli import page, share
from ncsn.interrupts import Stopped
from ncsn.model import ScoreModel
from ncsn.networks import MLP, UNet
from ncsn.recipe import Recipe
from ncsn.run import Run
from ncsn.samplers import Sampling

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
    (place / "out.txt").symlink_to("../secret.txt")
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


def ask(port: int, path: str, *, host: str | None = None, method: str = "GET") -> tuple[int, Message, bytes]:
    """What the server answers to exactly this path: libraries would tidy it up."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        name = f"127.0.0.1:{port}" if host is None else host
        connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    status, _, headers = head.partition(b"\r\n")
    return int(status.split()[1]), message_from_bytes(headers), body


def test_the_page_is_served_by_both_names_of_this_machine(port: int) -> None:
    for path, options, kind, content in (
        ("/", {}, "text/html", HOME),
        ("/", {"host": f"localhost:{port}"}, "text/html", HOME),
        ("/", {"method": "HEAD"}, "text/html", b""),
        ("/assets/it.js?v=1", {}, "text/javascript", b"export {};"),
    ):
        status, headers, body = ask(port, path, **options)
        assert (status, headers["Content-Type"], body) == (200, kind, content)


PATHS = [
    *("/../secret.txt", "/%2e%2e/secret.txt", "/assets/../../secret.txt", "/..%2fsecret.txt", "//../secret.txt"),
    *("/..\\secret.txt", "/out.txt", "/assets/", "/nowhere", "/index.html/", "/%00", str(ROOT / "pyproject.toml")),
]
WAYS: list[tuple[int, dict[str, str]]] = [
    *((501, {"method": method}) for method in ("POST", "PUT", "DELETE")),
    *((403, {"host": host}) for host in ("evil.example", "127.0.0.1:1", "")),
]


@pytest.mark.parametrize(
    ("path", "status", "options"), [*((path, 404, {}) for path in PATHS), *(("/", *way) for way in WAYS)]
)
def test_nothing_else_is(
    port: int, capfd: pytest.CaptureFixture[str], path: str, status: int, options: dict[str, str]
) -> None:
    actual, headers, body = ask(port, path, **options)
    assert actual == status
    assert b"secret" not in body.replace(path.encode(), b"")
    assert {name: headers[name] for name in page.HEADERS} == page.HEADERS
    assert capfd.readouterr().err == ""


def test_only_this_machine_is_answered(port: int) -> None:
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)} - {"127.0.0.1"}
    for address in [*others, "127.0.0.2"]:
        with pytest.raises(OSError, match=r"refused|unreachable|timed out"):
            socket.create_connection((str(address), port), timeout=2)


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


def a_run(network: str = "UNet", **arguments: Any) -> Run:
    """A run that has not learned, with a smaller network for a guide if it is of images."""
    shape = (arguments["image_channels"], 6, 5) if network == "UNet" else (2,)
    score = ScoreModel({"UNet": UNet, "MLP": MLP}[network](**arguments), 0.4, 0.3)
    recipe = Recipe(network=network, arguments=arguments, shape=shape, sampling=SAMPLING)
    return Run(score=score, recipe=recipe, guide=score if network == "UNet" else None)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_takes_the_place_of_the_pages_model_until_ctrl_c(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a file, the guide beside it, if there is one, and never the page's."""
    shown = a_run(image_channels=1, channels=(4,), blocks=1, features=4)
    shown.save(tmp_path / "run")
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

    def export(run: Run, path: Path, *, precision: str) -> None:
        """As ``ncsn.export``, which other tests are about, but for the content."""
        assert (run.digest, precision) == (shown.digest, "fp32")  # of which no rounding is refused
        path.write_bytes(b"the run's")

    monkeypatch.setattr(ncsn, "export", export)
    monkeypatch.setattr(page, "server", look)
    monkeypatch.setattr(webbrowser, "open", opened.put)
    for run in ([], [str(tmp_path / "mine.onnx")], [str(tmp_path / "run")]):
        cli.main(["play", *run, "--port", "0"])
        address = opened.get(timeout=10)
        assert f"{address} " in capsys.readouterr().out
        assert address.endswith("#digits") == bool(run)
    cli.main(["play", "--port", "0", "--no-browser"])
    assert opened.empty()
    usual, file, run_files, _ = served
    assert usual["model.onnx"] == usual["model.guide.onnx"] == b"the page's"
    assert (file["model.onnx"], "model.guide.onnx" in file) == (b"mine", False)
    assert (run_files["model.onnx"], "model.guide.onnx" in run_files) == (b"the run's", False)
    assert all(files["assets/it.js"] == b"export {};" for files in served)
    (tmp_path / "mine.guide.onnx").write_bytes(b"my guide")
    share.put_models(tmp_path / "mine.onnx", tmp_path)
    assert (tmp_path / "model.guide.onnx").read_bytes() == b"my guide"


def test_what_cannot_be_shown_is_one_line(
    port: int, tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a_run("MLP", dimensions=2).save(tmp_path / "points")
    a_run(image_channels=2, channels=(4,), blocks=1, features=4).save(tmp_path / "two")
    cases = {
        "points --port 0": "of shape (2,); the page shows images",
        "two --port 0": "of shape (2, 6, 5); the page shows",
        "nowhere --port 0": "nowhere is no run",
        "nowhere.onnx --port 0": "nowhere.onnx is no file",
        f"two --port {port}": f"port {port} cannot be had (Address already in use); --port 0",
    }
    for words, said in cases.items():
        with pytest.raises(SystemExit, match="2"):
            cli.main(["play", "--no-browser", *f"{tmp_path}/{words}".split()])
        printed = capsys.readouterr()
        assert (printed.out, printed.err.count("\n")) == ("", 1)
        assert said in printed.err
