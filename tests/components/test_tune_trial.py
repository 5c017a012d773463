"""A trial's own process: inputs by content, finetune's argv, the result for Katib, attempts in the store."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import msgspec
import pytest

from deepcuts.components.core import files
from deepcuts.components.core.errors import StoreError
from deepcuts.components.core.recipe import parse
from deepcuts.components.core.store import open_store
from deepcuts.components.tune import trial
from deepcuts.components.tune.inputs import bring, deposit
from deepcuts.components.tune.space import Dimension
from deepcuts.components.tune.task import Attempt, TrialTask, attempts_prefix
from tests.components.katib import Database, recording
from tests.conftest import ROOT
from tests.test_contract import declared, foreign_packages
from tests.training import tiny

SPACE = {
    "learning_rate": Dimension(kind="float", min=1e-4, max=1e-1, log=True),
    "method": Dimension(kind="choice", values=["full", "lora"]),
    "lora_rank": Dimension(kind="choice", values=[4, 16], when={"method": ["lora"]}),
}
RECIPE = tiny.RECIPE | {"precision": "fp32", "save_every_seconds": 1e6}


@pytest.fixture
def database() -> Iterator[Database]:
    with recording() as made:
        yield made


@pytest.fixture
def task(tmp_path, database) -> TrialTask:
    """The first rung of a search, its inputs in the store."""
    tiny.base(tmp_path / "base")
    tiny.write_sums(tmp_path / "train.jsonl", 60)
    tiny.write_sums(tmp_path / "valid.jsonl", 5, seed=1)
    store = (tmp_path / "store").as_uri()
    digests = {
        name: deposit(open_store(store), tmp_path / path)
        for name, path in (("base", "base"), ("train", "train.jsonl"), ("valid", "valid.jsonl"))
    }
    return TrialTask(
        store=store,
        search="s1",
        recipe=parse(RECIPE),
        space=SPACE,
        values={"learning_rate": "0.01", "method": "full", "lora_rank": "16", "budget_tokens": "512"},
        max_tokens=1536,
        db_manager=database.address,
        **digests,
    )


def started(task: TrialTask, name: str) -> subprocess.Popen[str]:
    """The trial as its pod runs it."""
    words = [sys.executable, "-m", "deepcuts.components.tune.trial", msgspec.json.encode(task).decode()]
    environment = os.environ | {"KATIB_TRIAL_NAME": name, "DEEPCUTS_POOL": "gpu", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def attempts(task: TrialTask, name: str) -> list[Attempt]:
    store = open_store(task.store)
    keys = store.list(f"{attempts_prefix(task.search)}{name}/")
    return [msgspec.json.decode(store.get_bytes(key), type=Attempt) for key in keys]


@pytest.mark.slow  # 20 s or more on two busy cores
def test_a_trial_tells_katib_its_loss_and_its_promotion_goes_on_from_the_checkpoint(task, database):
    first = started(task, "deepcuts-1")
    assert first.communicate() and first.returncode == 0
    (left,) = attempts(task, "deepcuts-1")
    assert left.receipt and (left.pool, left.receipt.pool, left.receipt.step) == ("gpu", "gpu", "tune")
    facts = left.receipt.facts
    (told,) = database.told
    (log,) = told.observation_log.metric_logs
    assert (told.trial_name, log.metric.name) == ("deepcuts-1", "valid_loss")
    assert float(log.metric.value) == facts["valid_loss"] and log.time_stamp.endswith("Z")

    promoted = msgspec.structs.replace(task, values=task.values | {"budget_tokens": "1536"})
    second = started(promoted, "deepcuts-2")
    assert second.communicate() and second.returncode == 0
    (later,) = attempts(task, "deepcuts-2")
    assert later.receipt and later.receipt.facts["resumed_at_step"] == facts["steps"]
    assert later.receipt.facts["training_id"] == facts["training_id"]  # a switched-off lora_rank is not in it


def test_a_trial_that_cannot_be_trained_ends_for_good_with_its_receipt_and_reason(task, database):
    wrong = msgspec.structs.replace(task, recipe=parse(RECIPE | {"seq_len": 256}))
    process = started(wrong, "deepcuts-1")
    _, said = process.communicate()
    assert process.returncode == 2 and "context" in said
    (left,) = attempts(task, "deepcuts-1")
    assert left.receipt and left.receipt.end_reason == "config" and "context" in left.problem
    assert left.receipt.wall_seconds > 0 and database.told == []


@pytest.mark.slow
def test_a_trial_told_to_stop_saves_and_the_pod_that_replaces_it_goes_on(task, database):
    values = task.values | {"budget_tokens": "60000"}
    slow = msgspec.structs.replace(task, values=values, max_tokens=60_000)
    process = started(slow, "deepcuts-1")
    assert process.stderr
    for line in process.stderr:
        if "tokens/s" in line:  # a step is done
            process.send_signal(signal.SIGTERM)
            break
    process.communicate()
    assert process.returncode == 143
    again = started(slow, "deepcuts-1")
    assert again.communicate() and again.returncode == 0
    ends = {a.receipt.end_reason: a.receipt for a in attempts(task, "deepcuts-1") if a.receipt}
    assert set(ends) == {"preempted", "ok"} and int(ends["ok"].facts["resumed_at_step"] or 0) > 0


def test_a_database_that_stays_away_is_an_end_worth_trying_again(monkeypatch):
    monkeypatch.setattr(trial, "OUTAGE_SECONDS", 0.0)
    began = time.monotonic()
    with pytest.raises(StoreError, match="127.0.0.1:9 does not take the result"):
        trial.push("127.0.0.1:9", "deepcuts-1", 1.0)
    assert time.monotonic() - began < 30


def test_without_katib_a_trial_says_how_it_is_run(task):
    words = [sys.executable, "-m", "deepcuts.components.tune.trial", msgspec.json.encode(task).decode()]
    environment = {name: value for name, value in os.environ.items() if name != trial.NAME}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "Push collector" in done.stderr


@pytest.mark.parametrize(
    ("module", "image"), [("tune/trial", "train"), ("tune/suggestion", "ops"), ("tune_katib/register", "ops")]
)
def test_the_image_of_a_pod_that_is_no_step_has_all_that_it_imports(module, image):
    needed = foreign_packages(ROOT / "components" / f"{module}.py")
    shared = "googleapis-common-protos"  # another owner of the name google, of which we import protobuf only
    assert needed - declared(image) <= {shared} and (shared not in needed or "protobuf" in declared(image))


def test_inputs_come_back_with_the_digest_they_went_in_with(tmp_path):
    store = open_store((tmp_path / "store").as_uri())
    folder, file = tmp_path / "folder", tmp_path / "data.jsonl"
    folder.mkdir()
    folder.joinpath("config.json").write_text("{}")
    file.write_text("{}\n")
    for path in (folder, file):
        digest = deposit(store, path)
        assert deposit(store, path) == digest == files.digest(path)
        assert files.digest(bring(store, digest, tmp_path / "back" / path.name)) == digest
    with pytest.raises(FileNotFoundError):
        bring(store, "0" * 64, tmp_path / "nothing")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": "lorra"}, "none of"),
        ({"learning_rate": "1"}, "from 0.0001 to 0.1"),
        ({"learning_rate": "fast"}, "no number"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_values_that_are_not_of_the_space_are_refused(changed, message):
    given = {"learning_rate": "0.01", "method": "lora", "lora_rank": "16"}
    assert trial.spaces.read(SPACE, given) == {"learning_rate": 0.01, "method": "lora", "lora_rank": 16}
    with pytest.raises(ValueError, match=message):
        trial.spaces.read(SPACE, given | changed)


def test_a_value_beyond_its_bound_by_rounding_is_the_bound():
    given = {"learning_rate": repr(0.1 * (1 + 1e-12)), "method": "full", "lora_rank": "4"}
    assert trial.spaces.read(SPACE, given)["learning_rate"] == 0.1
