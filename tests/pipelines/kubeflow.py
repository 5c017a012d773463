"""The HTTP of Kubeflow Pipelines 2.17 (v2beta1), as much as the client asks; runs go as a test tells."""

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Json = dict[str, Any]
NEVER = "0001-01-01T00:00:00Z"
"""What the server says of the end of a node that still runs: Go's zero time."""


def node(name: str, state: str, *children: str, start: str = "", end: str = NEVER) -> Json:
    """A node of the Argo workflow as KFP lists it among a run's tasks; ``name#3`` has the hash 3."""
    shown, _, number = name.partition("#")
    return {
        "task_id": uuid.uuid4().hex,
        "display_name": shown,
        "state": state,
        "start_time": start or "2026-11-24T10:00:00Z",
        "end_time": end,
        "pod_name": f"toy-x7k2p-system-container-impl-{number}",
        "child_tasks": [{"pod_name": f"toy-x7k2p-{child}"} for child in children],
    }


class Kubeflow:
    """What the server holds; ``script`` are the states a run goes through, one a look, the last one stays."""

    def __init__(self) -> None:
        self.pipelines: dict[str, Json] = {}
        self.versions: dict[str, Json] = {}
        self.packages: dict[str, bytes] = {}
        self.experiments: dict[str, Json] = {}
        self.runs: dict[str, Json] = {}
        self.stopped: list[str] = []
        self.jobs: dict[str, Json] = {}
        self.script: list[tuple[str, list[Json]]] = [("SUCCEEDED", [])]
        self.refuse: list[int] = []
        """Statuses of the answers to come, before anything else is answered."""
        self.token = ""
        self.url = ""

    def answer(self, method: str, path: list[str], query: dict[str, str], body: bytes) -> tuple[int, Json]:
        if self.refuse:
            return self.refuse.pop(0), {"error_description": "not now", "code": 2}
        match method, path:
            case "GET", ["healthz"]:
                return 200, {"multi_user": False}
            case "POST", ["pipelines"]:
                return self._add(self.pipelines, "pipeline_id", json.loads(body))
            case "GET", ["pipelines"]:
                return 200, {"pipelines": found(self.pipelines, query)}
            case "GET", ["pipelines", pipeline_id, "versions"]:
                mine = {i: v for i, v in self.versions.items() if v["pipeline_id"] == pipeline_id}
                return 200, {"pipeline_versions": found(mine, query)}
            case "POST", ["pipelines", "upload_version"]:
                value = {"display_name": query["name"], "pipeline_id": query["pipelineid"]}
                self.packages[query["name"]] = body
                return self._add(self.versions, "pipeline_version_id", value)
            case "GET", ["experiments"]:
                return 200, {"experiments": found(self.experiments, query)}
            case "POST", ["experiments"]:
                return self._add(self.experiments, "experiment_id", json.loads(body))
            case "POST", ["runs"]:
                value = json.loads(body) | {"state": "PENDING", "created_at": "2026-11-24T10:00:00Z"}
                return self._add(self.runs, "run_id", value)
            case "GET", ["runs"]:
                return 200, {"runs": list(reversed(self.runs.values()))}
            case "GET", ["runs", run_id]:
                state, details = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                self.runs[run_id] |= {"state": state, "run_details": {"task_details": details}}
                return 200, self.runs[run_id]
            case "POST", ["runs", stopped] if stopped.endswith(":terminate"):
                self.stopped.append(stopped.removesuffix(":terminate"))
                self.runs[self.stopped[-1]]["state"] = "CANCELING"
                return 200, {}
            case "GET", ["recurringruns"]:
                return 200, {"recurringRuns": found(self.jobs, query)}
            case "POST", ["recurringruns"]:
                return self._add(self.jobs, "recurring_run_id", json.loads(body))
            case "POST", ["recurringruns", job] if job.endswith(":disable"):
                return 200, {}
            case "DELETE", ["recurringruns", job]:
                del self.jobs[job]
                return 200, {}
        return 404, {"error_description": f"no {method} {path}", "code": 5}

    def _add(self, where: dict[str, Json], key: str, value: Json) -> tuple[int, Json]:
        value = value | {key: str(uuid.uuid4())}
        where[value[key]] = value
        return 200, value


def found(values: dict[str, Json], query: dict[str, str]) -> list[Json]:
    predicates = json.loads(query.get("filter", "{}")).get("predicates", [])
    return [v for v in values.values() if all(v[p["key"]] == p["stringValue"] for p in predicates)]


@contextmanager
def serving() -> Iterator[Kubeflow]:
    """A server on a free port of this machine."""
    kubeflow = Kubeflow()

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            path = url.path.removeprefix("/apis/v2beta1/").split("/")
            allowed = not kubeflow.token or self.headers["Authorization"] == f"Bearer {kubeflow.token}"
            refused = (401, {"error_description": "who are you"})
            status, value = kubeflow.answer(self.command, path, query, body) if allowed else refused
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = _do

        def log_message(self, format: str, *values: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kubeflow.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield kubeflow
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
