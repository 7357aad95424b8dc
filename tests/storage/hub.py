"""As much of the Hugging Face hub as huggingface_hub asks for when a repository is listed, read and committed to.

It is no real hub: nobody can run one here. It shows that mopt asks for what it should, in the order that it should.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
from typing import Any, Self
from urllib.parse import parse_qs, unquote

_TREE = re.compile(r"/api/(?P<kind>models|datasets)/org/repo/tree/(?P<commit>\w+)(?:/(?P<path>[^?]+))?(?:\?(?P<query>.*))?")


class Hub:
    """A repository ``org/repo`` with its commits, the newest last; each is the content of its files by name."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.commits = [dict(files)]
        self.requests: list[str] = []
        self.refuse_commits = False
        self.port = 0

    def __enter__(self) -> Self:
        hub = self

        class Handler(_Handler):
            of = hub

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1]

    def at(self, revision: str) -> dict[str, bytes] | None:
        """The files of a commit, or of the newest one."""
        if revision == "main":
            return self.files
        return next((files for index, files in enumerate(self.commits) if identity(index) == revision), None)

    def commit(self, lines: list[dict[str, Any]]) -> str:
        files = dict(self.files)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                files.pop(value["path"])
        self.commits.append(files)
        return identity(len(self.commits) - 1)


def identity(index: int) -> str:
    return f"{index + 1:040d}"


def _entry(name: str, data: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
    return {"type": "file", "path": name, "size": len(data), "oid": blob}


class _Handler(http.server.BaseHTTPRequestHandler):
    of: Hub

    def do_GET(self) -> None:
        self.of.requests.append(f"GET {self.path}")
        if match := re.fullmatch(r"/api/(?:models|datasets)/org/repo/revision/(\w+)(?:\?.*)?", self.path):
            known = self.of.at(match[1])
            commit = identity(len(self.of.commits) - 1) if match[1] == "main" else match[1]
            return self._json({"id": "org/repo", "sha": commit, "siblings": []} if known is not None else None)
        if match := _TREE.fullmatch(self.path):
            files, below = self.of.at(match["commit"]) or {}, f"{unquote(match['path'])}/" if match["path"] else ""
            deep = "recursive=True" in (match["query"] or "") or "recursive=true" in (match["query"] or "")
            inside = [name for name in files if name.startswith(below) and (deep or "/" not in name.removeprefix(below))]
            return self._json([_entry(name, files[name]) for name in sorted(inside)])
        if match := re.fullmatch(r"/(?:datasets/)?org/repo/resolve/(\w+)/([^?]+)(?:\?.*)?", self.path):
            return self._file(match[1], unquote(match[2]))
        return self._json(None)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.of.requests.append(f"POST {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "/paths-info/" in self.path:
            form = parse_qs(body.decode())
            paths = form["paths"] if "paths" in form else json.loads(body)["paths"]
            commit = self.path.rpartition("/")[2]
            return self._json(self._paths(self.of.at(commit) or {}, paths))
        if "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            return self._json(
                {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in asked]}
            )
        if "/commit/" in self.path and not self.of.refuse_commits:
            commit = self.of.commit([json.loads(line) for line in body.splitlines()])
            return self._json(
                {"commitUrl": f"http://127.0.0.1:{self.of.port}/org/repo/commit/{commit}", "commitOid": commit, "success": True}
            )
        return self._json(None)

    def _paths(self, files: dict[str, bytes], paths: list[str]) -> list[dict[str, Any]]:
        entries = [_entry(path, files[path]) for path in paths if path in files]
        folders = [path for path in paths if any(name.startswith(f"{path}/") for name in files)]
        return entries + [{"type": "directory", "path": path, "oid": "0" * 40} for path in folders]

    def _file(self, commit: str, name: str) -> None:
        data = (self.of.at(commit) or {}).get(name)
        if data is None:
            return self._json(None)
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{_entry(name, data)["oid"]}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)
        return None

    def _json(self, value: Any) -> None:
        data = json.dumps(value if value is not None else {"error": "planted-Secret-1234567"}).encode()
        self.send_response(200 if value is not None else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if value is None:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass
