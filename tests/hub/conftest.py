"""A Hub of our own on the loopback interface: the endpoints that downloads, searches and uploads need."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Barrier, Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

COMMITS = {"main": "a" * 40, "v2": "b" * 40}


@dataclass
class FakeHub:
    """`files[repo][commit][path]`; a gated repository answers 403 for its files unless the token is right."""

    files: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    token: str = "hf_right"
    broken: bool = False
    cut: dict[str, int] = field(default_factory=dict)
    """Files after so many bytes of which the connection breaks, once."""
    meeting: Barrier | None = None
    """Where requests for weights wait for each other."""
    requests: list[str] = field(default_factory=list)
    url: str = ""

    def add(self, repo: str, files: dict[str, bytes], revision: str = "main") -> None:
        self.files.setdefault(repo, {})[COMMITS[revision]] = files


def handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer()

        def do_HEAD(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            body = self.rfile.read(int(self.headers["Content-Length"]))
            hub.requests.append(path)
            if path == "api/validate-yaml":
                self.json({"errors": [], "warnings": []})
            elif self.headers.get("authorization") != f"Bearer {hub.token}":
                self.send(401, b"", {"X-Error-Message": "Invalid username or password."})
            elif path == "api/repos/create":
                self.create(json.loads(body))
            elif path.split("/")[4] == "preupload":
                files = [{"path": one["path"], "uploadMode": "regular"} for one in json.loads(body)["files"]]
                self.json({"files": [{**one, "shouldIgnore": False} for one in files]})
            else:
                self.commit("/".join(path.split("/")[2:4]), [json.loads(line) for line in body.splitlines()])

        def create(self, wanted: dict[str, str]) -> None:
            repo = f"{wanted['organization']}/{wanted['name']}"
            body = json.dumps({"url": f"{hub.url}/{repo}", "id": repo}).encode()
            status = 409 if repo in hub.files else 200
            if status == 200:
                hub.add(repo, {})
            self.send(status, body, {"Content-Type": "application/json"})

        def commit(self, repo: str, lines: list[dict[str, Any]]) -> None:
            files = dict(hub.files[repo][COMMITS["main"]])
            for line in lines:
                if line["key"] == "file":
                    files[line["value"]["path"]] = b64decode(line["value"]["content"])
                elif line["key"] == "deletedFile":
                    del files[line["value"]["path"]]
            hub.add(repo, files)
            self.json({"commitUrl": f"{hub.url}/{repo}/commit/{COMMITS['main']}", "commitOid": COMMITS["main"]})

        def search(self, asked: dict[str, list[str]]) -> None:
            author, words = asked.get("author", [""])[0], asked.get("search", [""])[0].lower()
            found = [repo for repo in hub.files if repo.startswith(author) and words in repo.lower()]
            self.json([{"id": repo} for repo in found])

        def answer(self) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            hub.requests.append(path)
            parts = path.split("/")
            if hub.broken:
                self.send(500, b"", {})
            elif path == "api/whoami-v2":
                self.json({"name": "someone"})
            elif path == "api/models":
                self.search(parse_qs(urlsplit(self.path).query))
            elif parts[:2] == ["api", "models"]:
                self.api("/".join(parts[2:4]), parts[4:])
            elif parts[0] == "api":
                self.send(404, b"", {})
            else:
                self.file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))

        def api(self, repo: str, rest: list[str]) -> None:
            revision = rest[1] if len(rest) > 1 else "main"
            commit = COMMITS.get(revision, revision)
            if repo not in hub.files:
                self.send(404, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
            elif commit not in hub.files[repo]:
                self.send(404, b"", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
            elif rest[:1] == ["tree"]:
                files = hub.files[repo][commit].items()
                self.json([{"type": "file", "path": p, "size": len(b), "oid": sha1(b).hexdigest()} for p, b in files])
            else:
                siblings = [{"rfilename": path, "size": len(file)} for path, file in hub.files[repo][commit].items()]
                gated = "manual" if repo in hub.gated else False
                self.json({"id": repo, "sha": commit, "siblings": siblings, "gated": gated})

        def file(self, repo: str, commit: str, name: str) -> None:
            if repo in hub.gated and self.headers.get("authorization") != f"Bearer {hub.token}":
                self.send(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
                return
            content = hub.files[repo][commit][name]
            headers = {"X-Repo-Commit": commit, "ETag": f'"{sha1(content).hexdigest()}"'}
            if self.command == "GET" and hub.meeting is not None and name.endswith("safetensors"):
                hub.meeting.wait(timeout=10)
            if self.command == "GET" and name in hub.cut:
                self.send(200, content, headers, sent=hub.cut.pop(name))
            elif "Range" in self.headers:
                start = int(self.headers["Range"].removeprefix("bytes=").partition("-")[0])
                hub.requests.append(f"{name} from {start}")
                place = f"bytes {start}-{len(content) - 1}/{len(content)}"
                self.send(206, content[start:], {**headers, "Content-Range": place})
            else:
                self.send(200, content, headers)

        def json(self, value: object) -> None:
            self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def send(self, status: int, content: bytes, headers: dict[str, str], sent: int | None = None) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[:sent])

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Keep the tests' output clean."""

    return Handler


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    from huggingface_hub import constants

    fake = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(fake))
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    # huggingface_hub reads HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE when it is imported, which has happened by now.
    monkeypatch.setattr(constants, "ENDPOINT", fake.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", fake.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield fake
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTODEPLOY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
