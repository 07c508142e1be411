"""A local model hub with the part of the Hugging Face API that pushing and loading use."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

TOKEN = "hf_right"


@dataclass
class Repository:
    """commits: files by commit; branches: commit by name."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        """Commit files to a branch; return the commit."""
        before = self.commits.get(self.branches.get(branch, ""), {})
        name = hashlib.sha1(repr((len(self.commits), files)).encode()).hexdigest()
        self.commits[name] = before | files
        self.branches[branch] = name
        return name

    def resolved(self, revision: str) -> str | None:
        """The commit of a branch name or commit; None if unknown."""
        return self.branches.get(revision) or (revision if revision in self.commits else None)


@dataclass
class Hub:
    """The repositories of a running server, and the requests it received (verb, path)."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)

    def environment(self, home: Any) -> dict[str, str]:
        """Environment variables that point huggingface_hub to this hub, with a write token."""
        return {
            "HF_ENDPOINT": self.address,
            "HF_HOME": str(home),
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Create repositories, branches and commits; only with the right token."""
        length = int(self.headers.get("Content-Length") or 0)
        body = self._body(length)
        self.hub.requests.append(("POST", self.path))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._json({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            bad = "license: [" in json.loads(body)["content"]
            errors = [{"message": "metadata is no YAML"}] if bad else []
            self._json({"errors": errors, "warnings": []}, 400 if bad else 200)
        elif match := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.path):
            objects = [
                one | {"actions": {"upload": {"href": f"{self.hub.address}/lfs/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            self._json({"objects": objects, "transfer": "basic"})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(\w+)/([^/]+)", self.path):
            name, verb, revision = match.groups()
            self._change(self.hub.repositories[name], verb, unquote(revision), body)
        else:
            self._json({"error": "not here"}, 404)

    def _body(self, length: int) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(length)
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        url = {"url": f"{self.hub.address}/{name}"}
        if name in self.hub.repositories:
            self._json(url | {"error": "You already created this model repo"}, 409)
            return
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.repositories[name] = Repository(private)
        self.hub.repositories[name].commit("main", {".gitattributes": b""})
        self._json(url)

    def _change(self, repository: Repository, verb: str, revision: str, body: bytes) -> None:
        if verb == "branch":
            known = revision in repository.branches
            repository.branches.setdefault(revision, repository.branches["main"])
            self._json(
                {"error": "Reference already exists"} if known else {}, 409 if known else 200
            )
        elif verb == "preupload":
            files = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(body)["files"]
            ]
            self._json({"files": files})
        else:
            files = {}
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = self.hub.uploads[value["oid"]]
            commit = repository.commit(revision, files)
            url = f"{self.hub.address}/USER/NAME/commit/{commit}"
            self._json({"commitOid": commit, "commitUrl": url, "success": True})

    def do_PUT(self) -> None:
        """Receive the content of a large file."""
        content = self._body(int(self.headers.get("Content-Length") or 0))
        self.hub.uploads[self.path.rpartition("/")[2]] = content
        self._json({})

    def do_HEAD(self) -> None:
        """Answer like GET, without the body."""
        self.do_GET()

    def do_GET(self) -> None:
        """Send the metadata of a revision, or a file."""
        self.hub.requests.append((self.command, self.path))
        path = self.path.partition("?")[0]
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/revision/([^/]+))?", path):
            name, revision = match[1], unquote(match[2] or "main")
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            name, revision = match[1], unquote(match[2])
        else:
            self._json({"error": "not here"}, 404)
            return
        repository = self.hub.repositories.get(name)
        allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repository is None or (repository.private and not allowed):
            self._json({"error": "Repository not found"}, 401, "RepoNotFound")
            return
        commit = repository.resolved(revision)
        if commit is None:
            self._json({"error": "Invalid rev id"}, 404, "RevisionNotFound")
        elif "/resolve/" in self.path:
            self._file(repository, commit, match[3])
        else:
            names = [{"rfilename": file} for file in repository.commits[commit]]
            about = {"id": name, "modelId": name, "sha": commit, "siblings": names}
            self._json(about | {"private": repository.private, "tags": []})

    def _file(self, repository: Repository, commit: str, name: str) -> None:
        content = repository.commits[commit].get(name)
        if content is None:
            self._json({"error": "Entry not found"}, 404, "EntryNotFound", commit)
            return
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self._end(content)

    def _json(self, value: Any, status: int = 200, code: str = "", commit: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", value["error"])
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self._end(json.dumps(value).encode())

    def _end(self, content: bytes) -> None:
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Suppress logging."""


@contextmanager
def hub_running() -> Iterator[Hub]:
    """Run a hub without repositories."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
