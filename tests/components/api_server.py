"""A Kubernetes API server of which a test says what it answers."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import yaml

Json = dict[str, Any]


class NamespacedObjects(Protocol):
    """Objects of one namespace behind the Kubernetes API."""

    def answer(self, method: str, path: list[str], body: Json) -> tuple[int, Json]:
        """(status, body) for a path below the namespace."""


class CronJobs:
    """CronJobs as applied, and Jobs made separately."""

    def __init__(self, applied: dict[str, Json]) -> None:
        self.applied = applied
        self.jobs: dict[str, Json] = {}
        self.refuse: list[tuple[int, Json]] = []
        """The answers to the next POSTs."""

    def answer(self, method: str, path: list[str], body: Json) -> tuple[int, Json]:
        if self.refuse and method == "POST":
            return self.refuse.pop(0)
        match method, path:
            case "GET", ["cronjobs", name] if name in self.applied:
                return 200, self.applied[name]
            case "POST", ["jobs"] if (name := body["metadata"]["name"]) not in self.jobs:
                self.jobs[name] = body
                return 201, body
            case "POST", ["jobs"]:
                return 409, {"reason": "AlreadyExists", "message": f"{name} already exists"}
        return 404, {"message": f"{path[-1]} not found"}


@contextmanager
def serving(cluster: NamespacedObjects, folder: Path, namespace: str) -> Iterator[Path]:
    """A kubeconfig that leads to ``cluster``."""

    class Handler(BaseHTTPRequestHandler):
        def _respond(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            path = urlsplit(self.path).path
            if "/nodes/" in path:  # of no namespace
                owner, rest = namespace, path.split("/")[-2:]
            else:
                owner, *rest = path.partition("/namespaces/")[2].split("/")
            status, value = cluster.answer(self.command, rest, body) if owner == namespace else (404, {})
            text = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_DELETE = _respond

        def log_message(self, *words: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    context = {"name": "here", "context": {"cluster": "here", "user": "me", "namespace": namespace}}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "me", "user": {}}],
        "contexts": [context],
        "current-context": "here",
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    try:
        yield path
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
