"""A hub of our own: the part of the Hugging Face HTTP interface that a snapshot download uses."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves one repository from ``folder`` at COMMIT and keeps the names of the files it handed out."""

    def __init__(self, repo: str, folder: Path, status: int = 200, failures: int = 0) -> None:
        """``status`` other than 200 is the answer to everything; ``failures`` requests first get a 503."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repo, self.folder, self.status, self.failures = repo, folder, status, failures
        self.sent: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        path, hub = unquote(urlsplit(self.path).path), self.server
        tree, file = (
            f"/api/{hub.repo}/tree/{COMMIT}",
            f"/{hub.repo.removeprefix('models/')}/resolve/{COMMIT}/",
        )
        newest = f"/api/{hub.repo}/revision/main"
        if hub.failures:
            hub.failures -= 1
            self._answer(503, b"{}")
        elif hub.status != 200:
            self._answer(hub.status, b"{}")
        elif path == newest:
            self._answer(200, json.dumps({"id": hub.repo.partition("/")[2], "sha": COMMIT}).encode())
        elif path == tree:
            self._answer(
                200, json.dumps([self._entry(p) for p in hub.folder.rglob("*") if p.is_file()]).encode()
            )
        elif path.startswith(file) and (hub.folder / path.removeprefix(file)).is_file():
            name = path.removeprefix(file)
            if self.command == "GET":
                hub.sent.append(name)
            self._answer(200, (hub.folder / name).read_bytes())
        else:
            self._answer(404, b"{}")

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass

    def _entry(self, path: Path) -> dict[str, object]:
        name = path.relative_to(self.server.folder).as_posix()
        return {"type": "file", "path": name, "size": path.stat().st_size, "oid": _oid(path.read_bytes())}

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{_oid(body)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
