"""A small imitation of the Hugging Face Hub: repositories in memory, served to the real client on this machine."""

import contextlib
import hashlib
import json
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest


class HubServer:
    """The repositories and what was asked for.

    Attributes:
        commits: files by repository and revision; a revision is "main" or another name of a commit.
        gated: repositories that need a licence to be accepted.
        requests: path and range of every request for a file's content.
        broken: files whose next answer stops in the middle.
        is_down: whether every answer is that the service is unavailable.
    """

    def __init__(self):
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.gated: set[str] = set()
        self.requests: list[tuple[str, str]] = []
        self.broken: set[str] = set()
        self.is_down = False

    def add(self, repo: str, files: dict[str, bytes], revision: str = "main") -> None:
        self.commits.setdefault(repo, {})[revision] = files

    def add_folder(self, repo: str, folder: Path, revision: str = "main") -> None:
        files = (path for path in folder.rglob("*") if path.is_file())
        self.add(repo, {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}, revision)

    @property
    def downloaded(self) -> list[str]:
        """The files whose content was sent."""
        return [path for path, _ in self.requests]

    def commit(self, repo: str, revision: str) -> str:
        """The commit that a branch or tag stands for."""
        content = [f"{repo} {revision}", *map(repr, self.commits[repo][revision].items())]
        return _digest("".join(content).encode())

    def find(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Commit and files of a revision."""
        for name, files in self.commits[repo].items():
            commit = self.commit(repo, name)
            if revision in (name, commit):
                return commit, files
        return None


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, with_content: bool) -> None:
        if self.hub.is_down:
            return self._send(503, b"")
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).strip("/").split("/")
        is_listing = path[:2] == ["api", "models"]
        owner, name, *more = path[2:] if is_listing else path
        kind, revision, *rest = more or ["revision", "main"]
        repo = f"{owner}/{name}"
        if repo not in self.hub.commits:
            return self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
        found = self.hub.find(repo, revision)
        if found is None:
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        commit, files = found
        if is_listing and kind == "tree":
            tree = [{"type": "file", "path": p, "size": len(c), "oid": _digest(c)} for p, c in files.items()]
            return self._send(200, json.dumps(tree).encode())
        if is_listing:
            siblings = [{"rfilename": p, "size": len(c)} for p, c in files.items()]
            return self._send(200, json.dumps({"id": repo, "sha": commit, "siblings": siblings}).encode())
        if repo in self.hub.gated:
            return self._send(403, b"", {"X-Error-Code": "GatedRepo"})
        file = "/".join(rest)
        self._send_file(file, files[file], commit, with_content)

    def _send_file(self, file: str, content: bytes, commit: str, with_content: bool) -> None:
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_digest(content)}"', "Accept-Ranges": "bytes"}
        if not with_content:
            return self._send(200, content, headers, with_content=False)
        asked = self.headers.get("Range", "")
        self.hub.requests.append((file, asked))
        if file in self.hub.broken:
            self.hub.broken.remove(file)
            self.send_response(200)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            return self.connection.close()
        start = int(asked.removeprefix("bytes=").rstrip("-") or 0)
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(206 if start else 200, content[start:], headers)

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None, with_content=True) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if with_content and self.command == "GET":
            self.wfile.write(content)


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


class _Server(ThreadingHTTPServer):
    request_queue_size = 64  # the client opens several connections at once


@contextlib.contextmanager
def serving(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """Serves a hub, and lets the client use it and an empty cache."""
    hub = HubServer()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    for name, value in {
        "HF_HUB_OFFLINE": False,
        "ENDPOINT": endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
