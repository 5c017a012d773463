"""What is left of attempts, damaged: named by its place, never a figure and never a bug."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import pytest

from deepcuts.components.core import node, nodepools, run_records
from deepcuts.components.core.attempts import INPUTS, TERMINAL, Alive, Begun
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.receipts import Meter
from deepcuts.components.core.store import FileStore

PLACE = "run/train/attempts-1"
WHOLE = {
    f"{PLACE}/begun/a": Begun("finetune", "cpu", 1, "2026-11-30T10:00:00Z"),
    f"{PLACE}/alive/a": Alive(12.5),
    f"{PLACE}/begun/b": Begun("finetune", "cpu", 2, "2026-11-30T10:01:00Z"),
    f"{PLACE}/receipts/b/receipt": Meter().receipt("finetune", 0, {}),
    f"{PLACE}/{INPUTS}": {"corpus": ["minio://b/run/corpus"]},
}


@pytest.fixture
def store(tmp_path):
    store = FileStore(tmp_path)
    for key, value in WHOLE.items():
        store.put_bytes(key, msgspec.json.encode(value))
    return store


def read(store):
    keys = store.list("run/train/")
    run_records.terminal(store, keys)
    run_records._inputs(store, keys)
    return run_records.attempts(store, "train", keys)


def test_lost_attempt_counts_the_seconds_of_its_last_sign(store):
    assert [r.wall_seconds for r in read(store)["train"] if r.end_reason == run_records.LOST] == [12.5]


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"seconds": -4e9}', b"[" * 100_000])
@pytest.mark.parametrize("key", [*(WHOLE.keys() - {f"{PLACE}/begun/b"}), f"{PLACE}/{TERMINAL}"])
def test_damaged_record_is_named(store, key, content):
    store.put_bytes(key, content)
    with pytest.raises(DataError, match="is damaged, .*: delete it") as found:
        read(store)
    assert store.uri(key) in str(found.value)


def test_a_receipt_names_the_pool_that_its_nodes_labels_say_and_else_the_planned_one(store):
    pools = nodepools.parse(
        {
            "pools": [
                {"name": name, "selector": selector, "cpu_cores": 8, "memory_bytes": 2**33}
                for name, selector in {
                    "cpu": {"kind": "cpu"},
                    "spot": {"kind": "cpu", "life": "spot"},
                    "other": {"kind": "gpu"},
                }.items()
            ]
        }
    )
    spot = {"kind": "cpu", "life": "spot", "kubernetes.io/hostname": "n1"}
    for attempt, labels in (("a", spot), ("b", {})):
        begun = Begun("finetune", "cpu", 1, "2026-11-30T10:00:00Z", labels)
        store.put_bytes(f"{PLACE}/begun/{attempt}", msgspec.json.encode(begun))
    kept = msgspec.structs.replace(Meter().receipt("finetune", 0, {}), pool="cpu")
    store.put_bytes(f"{PLACE}/receipts/b/receipt", msgspec.json.encode(kept))
    keys = store.list("run/train/")
    found = run_records.attempts(store, "train", keys, pools)["train"]
    lost, done = sorted(found, key=lambda receipt: receipt.end_reason != run_records.LOST)
    assert (lost.pool, lost.facts["pool_by"]) == ("spot", run_records.BY_LABELS)
    assert done.pool == "cpu" and "pool_by" not in done.facts  # nobody could read its node
    assert node.pool({"kind": "tpu"}, "cpu", pools) == "cpu"
    assert node.pool({"kind": "gpu"}, "cpu", pools) == "other"
    assert node.pool(spot | {"life": "long"}, "cpu", pools) == "cpu"


LONG_NAME = "finetune-xtlf8-metadata-0-1-retry-system-container-impl-1027289912"
"""Of a pod that KFP started again: 66 characters, of which the host's name has 63."""


class Api(BaseHTTPRequestHandler):
    """The pod ``LONG_NAME`` on a node with labels, which not every account may read."""

    allowed = True

    def do_GET(self) -> None:
        node = {"metadata": {"labels": {"node-pool": "gpu"}}}
        known = {f"/api/v1/namespaces/team/pods/{LONG_NAME}": {"spec": {"nodeName": "n1"}}}
        known |= {"/api/v1/nodes/n1": node} if self.allowed else {}
        right = self.headers["Authorization"] == "Bearer secret"
        self.send_response(200 if right and self.path in known else 403)
        self.end_headers()
        self.wfile.write(json.dumps(known.get(self.path, {})).encode())

    def log_message(self, *words):
        pass


def test_a_pod_reads_its_nodes_labels_where_it_may_and_goes_without_them_elsewhere(tmp_path, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "namespace").write_text("team")
    (tmp_path / "token").write_text("secret")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.server_port))
    monkeypatch.setenv("KFP_POD_NAME", LONG_NAME)
    assert node.labels(tmp_path, "http") == {"node-pool": "gpu"}
    assert node.labels(tmp_path) == {}  # the token goes to no server without the cluster's certificate
    monkeypatch.setattr(Api, "allowed", False)
    assert node.labels(tmp_path, "http") == {}
    monkeypatch.setenv("KFP_POD_NAME", LONG_NAME[:63])
    assert node.labels(tmp_path, "http") == {} == node.labels(tmp_path / "no account", "http")
    server.shutdown()
    server.server_close()
    assert node.labels(tmp_path, "http") == {}
