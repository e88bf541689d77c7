"""A stand-in for Hugging Face's hub on 127.0.0.1: as much of its HTTP interface as sharing a model takes."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_secret0123456789"
REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"


class Repo:
    """A model: its commits by their hashes, each a dictionary of files, and its branches."""

    def __init__(self, *, private: bool) -> None:
        self.private = private
        self.commits: dict[str, dict[str, bytes]] = {}
        self.refs: dict[str, str] = {}
        self.commit({".gitattributes": b""})

    def commit(self, files: dict[str, bytes], ref: str = "main") -> str:
        parts = [self.refs.get(ref, ""), *(f"{name} {hashlib.sha1(x).hexdigest()}" for name, x in files.items())]
        sha = hashlib.sha1("\n".join(parts).encode()).hexdigest()
        self.commits[sha], self.refs[ref] = dict(files), sha
        return sha

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.refs["main"]]


class Hub(ThreadingHTTPServer):
    """``repos``: the models there.  ``asked``: every request, as method and path.  ``sizes``: what it says of a file's.
    ``broken``: requests for paths in which this pattern is found fail.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, Repo] = {}
        self.asked: list[str] = []
        self.sizes: dict[str, int] = {}
        self.large: dict[str, bytes] = {}
        self.broken = ""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def put(self, name: str, files: dict[str, bytes], *, private: bool = False) -> Repo:
        repo = self.repos.setdefault(name, Repo(private=private))
        repo.commit({".gitattributes": b"", **files})
        return repo


class RefusedError(Exception):
    """An answer that is an error: its status, and what the hub calls it."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_one(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        path = self.path.split("?")[0]
        if path != "/api/agent-harnesses":  # about the library's users, not about a model
            self.server.asked.append(f"{self.command} {path}")
        try:
            if self.server.broken and re.search(self.server.broken, path):
                raise RefusedError(501, "Broken")
            for method, pattern, function in ROUTES:
                found = re.fullmatch(pattern, path)
                if found and self.command in method.split("/"):
                    function(self, body, **found.groupdict())
                    return
            raise RefusedError(404, "NoRoute")
        except RefusedError as error:
            status, code = error.args
            said = json.dumps({"error": f"the stand-in says {code}"}).encode()
            self.answer(status, said, {"X-Error-Code": code, "Content-Type": "application/json"})

    do_GET = do_HEAD = do_POST = do_PUT = handle_one  # noqa: N815

    def json(self, content: object) -> None:
        self.answer(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    @property
    def allowed(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def repo(self, name: str) -> Repo:
        found = self.server.repos.get(name)
        if found is None or (found.private and not self.allowed):
            raise RefusedError(404 if self.allowed else 401, "RepoNotFound")
        return found

    def writable(self, name: str) -> Repo:
        if not self.allowed:
            raise RefusedError(401, "Unauthorized")
        return self.repo(name)

    def commit_of(self, name: str, revision: str) -> str:
        repo, revision = self.repo(name), revision.replace("%2F", "/")
        sha = repo.refs.get(revision, revision)
        if sha not in repo.commits:
            raise RefusedError(404, "RevisionNotFound")
        return sha

    def info(self, _: bytes, repo: str, revision: str | None = None) -> None:
        sha = self.commit_of(repo, revision or "main")
        sizes = {name: self.server.sizes.get(name, len(x)) for name, x in self.repo(repo).commits[sha].items()}
        files = [{"rfilename": name, "size": size} for name, size in sizes.items()]
        self.json({"id": repo, "modelId": repo, "sha": sha, "private": self.repo(repo).private, "siblings": files})

    def resolve(self, _: bytes, repo: str, revision: str, name: str) -> None:
        sha = self.commit_of(repo, revision)
        content = self.repo(repo).commits[sha].get(name)
        if content is None:
            raise RefusedError(404, "EntryNotFound")
        self.answer(200, content, {"X-Repo-Commit": sha, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'})

    def create(self, body: bytes) -> None:
        if not self.allowed:
            raise RefusedError(401, "Unauthorized")
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        private = asked.get("private", False) or asked.get("visibility") == "private"
        self.server.repos[name] = Repo(private=private)
        self.json({"url": f"{self.server.endpoint}/{name}", "name": name, "id": name})

    def validate(self, _: bytes) -> None:
        self.json({"errors": [], "warnings": []})

    def preupload(self, body: bytes, repo: str, revision: str) -> None:
        self.writable(repo)
        modes = {
            f["path"]: "lfs" if f["path"].endswith(".safetensors") else "regular" for f in json.loads(body)["files"]
        }
        self.json({"files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]})

    def batch(self, body: bytes, repo: str) -> None:
        self.writable(repo)
        place = f"{self.server.endpoint}/large/"
        objects = [x | {"actions": {"upload": {"href": place + x["oid"]}}} for x in json.loads(body)["objects"]]
        self.json({"transfer": "basic", "objects": objects})

    def large(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise RefusedError(400, "NotWhatItIs")
        self.server.large[oid] = body
        self.answer(200)

    def commit(self, body: bytes, repo: str, revision: str) -> None:
        there = self.writable(repo)
        files = dict(there.files)
        for line in map(json.loads, body.splitlines()):
            key, value = line["key"], line["value"]
            if key == "header" and value.get("parentCommit", there.refs["main"]) != there.refs["main"]:
                raise RefusedError(412, "Changed")
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if key == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            if key == "deletedFile":
                del files[value["path"]]
        sha = there.commit(files)
        url = f"{self.server.endpoint}/{repo}/commit/{sha}"
        self.json({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})


ROUTES = (
    ("GET", f"/api/models/{REPO}", Handler.info),
    ("GET", f"/api/models/{REPO}/revision/(?P<revision>[^/]+)", Handler.info),
    ("GET/HEAD", f"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<name>.+)", Handler.resolve),
    ("POST", "/api/repos/create", Handler.create),
    ("POST", "/api/validate-yaml", Handler.validate),
    ("POST", f"/api/models/{REPO}/preupload/(?P<revision>[^/]+)", Handler.preupload),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", "/large/(?P<oid>[0-9a-f]+)", Handler.large),
    ("POST", f"/api/models/{REPO}/commit/(?P<revision>[^/]+)", Handler.commit),
)


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub, while the block runs."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
