"""What is left of attempts, damaged: named by its place, never a figure and never a bug."""

import msgspec
import pytest

from deepcuts.components.core import run_records
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
