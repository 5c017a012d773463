"""Checkpoints in shares: who writes what, who can resume from it, and what training waits for."""

import json
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from deepcuts.components.core.errors import StoreError
from deepcuts.components.core.store import FileStore, publish
from deepcuts.components.training import loop, models
from deepcuts.components.training.checkpoints import Checkpoints, whole_weights
from deepcuts.components.training.losses import CompletionLoss
from tests.training import tiny
from tests.training.test_checkpoints import Training, equal
from tests.training.test_loop import DATA, assert_alike, in_processes, train

CHANGED = {"micro_batch_size": 1, "schedule_tokens": 2000, "learning_rate": 1e-3, "keep_checkpoints": 100}
SHARDED = CHANGED | {"strategy": "fsdp"}
HALF = {"budget_tokens": 900}
CPU_SECONDS = 1.0
NARROW = SHARDED | {"method": "lora", "lora_rank": 2, "lora_dropout": 0.0}
"""Two rows over four processes: two of them hold nothing of an adapter."""


def assert_same_losses(uncut, curve) -> None:
    for one, other in zip(uncut.progress.curve, curve, strict=True):
        assert other == pytest.approx(one, rel=1e-5), one["tokens"]


def steps_of(folder: Path) -> list[int]:
    return Checkpoints(FileStore(folder), "run", 100).steps()


def files_of(store: Path, step: int, kind: str) -> list[Path]:
    return sorted(store.glob(f"trainings/run/step-{step:08d}/{kind}-*"))


def resumed_at(store: Path, folder: Path) -> int:
    """The step at which a single process resumes a copy of a store."""
    shutil.copytree(store, folder)
    _, outcome = train(folder, tiny.recipe(**CHANGED))
    return outcome.resumed_at_step


def test_two_processes_write_a_half_each_and_one_resumes_from_what_is_whole(tmp_path):
    weights, uncut = train(tmp_path / "uncut", tiny.recipe(**CHANGED))
    part = in_processes(2, tmp_path / "two", SHARDED | HALF)
    store, last = tmp_path / "two/store", part["step"]
    earlier = steps_of(store)[-2]

    for kind in ("weights", "optimizer"):
        sizes = [path.stat().st_size for path in files_of(store, last, kind)]
        assert len(sizes) == 2 and max(sizes) < 0.55 * sum(sizes)

    progress = Checkpoints(FileStore(store), "run", 100).fetch(last, tmp_path / "fetched")
    fetched = load_file(tmp_path / "fetched/weights.safetensors")
    fetched = {name.removeprefix("model."): weight for name, weight in fetched.items()}  # of the loss
    gathered = torch.load(tmp_path / "two/weights.pt", weights_only=True)
    assert progress.step == last and fetched.keys() == gathered.keys()
    assert all(torch.equal(fetched[name], gathered[name]) for name in gathered)

    shutil.copytree(store, tmp_path / "one")
    alone, outcome = train(tmp_path / "one", tiny.recipe(**CHANGED))
    assert outcome.resumed_at_step == last
    assert_same_losses(uncut, outcome.progress.curve)
    assert all(torch.allclose(alone[name], weights[name], atol=1e-4) for name in weights)

    for kind, rank in (("weights", 1), ("optimizer", 0)):
        shutil.copytree(store, tmp_path / kind)
        files_of(tmp_path / kind, last, kind)[rank].unlink()
        assert resumed_at(tmp_path / kind, tmp_path / f"{kind} lost") == earlier


@pytest.mark.slow  # four starts of two or four processes each, a minute
@pytest.mark.parametrize("changed", [SHARDED, NARROW], ids=["full", "lora"])
def test_what_two_processes_saved_one_and_four_resume_and_the_reverse(tmp_path, changed):
    alone = {name: value for name, value in changed.items() if name != "strategy"}
    weights, uncut = train(tmp_path / "uncut", tiny.recipe(**alone))
    for before, after in ((2, 4), (4, 2)):
        folder = tmp_path / f"by-{before}"
        part = in_processes(before, folder, changed | HALF)
        assert len(files_of(folder / "store", part["step"], "weights")) == before
        shutil.copytree(folder / "store", tmp_path / f"after-{before}")
        rest = in_processes(after, folder, changed)
        assert rest["resumed_at_step"] == part["step"] > 0
        assert_same_losses(uncut, rest["curve"])
        assert_alike(weights, folder)
        _, outcome = train(tmp_path / f"after-{before}", tiny.recipe(**alone))
        assert outcome.resumed_at_step == part["step"]
        assert_same_losses(uncut, outcome.progress.curve)


@pytest.mark.slow  # three starts of two processes, 40 s
def test_a_share_that_is_lost_is_passed_over_by_all_processes_and_a_killed_one_leaves_the_last(tmp_path):
    always = {"save_every_seconds": 1e-6}
    assert not in_processes(2, tmp_path, SHARDED | HALF | always, deadly=4, check=False)
    (first,) = steps_of(tmp_path / "store")  # two uploads a save: killed in its second
    part = in_processes(2, tmp_path, SHARDED | HALF | always)
    assert part["resumed_at_step"] == first
    files_of(tmp_path / "store", part["step"], "weights")[1].write_bytes(b"torn")
    again = in_processes(2, tmp_path, SHARDED | HALF | always)
    assert again["resumed_at_step"] == part["step"] - 1
    assert again["curve"] == [pytest.approx(record, rel=1e-5) for record in part["curve"]]


class Gated(FileStore):
    """A store in which uploads wait for a gate; the first takes ``CPU_SECONDS``, then sets ``begun``."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.begun, self.gate = threading.Event(), threading.Event()

    def put(self, key: str, path: Path) -> None:
        until = time.thread_time() + CPU_SECONDS
        while not self.begun.is_set() and time.thread_time() < until:
            pass
        self.begun.set()
        if not self.gate.wait(60):
            raise StoreError("training waited for this upload")
        super().put(key, path)


def test_training_continues_during_an_upload_which_holds_the_weights_of_its_own_step(tmp_path):
    recipe = tiny.recipe(**CHANGED | {"save_every_seconds": 1e-6})
    plain, alone = train(tmp_path / "plain", recipe)
    store, lines = Gated(tmp_path / "gated"), []

    class Opens(CompletionLoss):
        """Opens the gate from within the second step."""

        def forward(self, *batch):
            if lines and not store.gate.is_set():
                assert store.begun.wait(60)
                store.gate.set()
            return super().forward(*batch)

    loss = Opens(tiny.model("qwen2"))
    checkpoints = Checkpoints(store, "run", 100)
    outcome = loop.train(loss, DATA, recipe, Accelerator(cpu=True), checkpoints, say=lines.append)
    assert store.gate.is_set() and outcome.progress == alone.progress
    assert outcome.train_cpu_seconds < alone.train_cpu_seconds + CPU_SECONDS / 2, "the upload is not training"
    assert all(torch.equal(plain[name], weight) for name, weight in models.trainable(loss.model).items())
    assert steps_of(tmp_path / "gated") == steps_of(tmp_path / "plain")
    for folder in ("plain", "gated"):
        saved = Checkpoints(FileStore(tmp_path / folder), "run", 100).fetch(1, tmp_path / folder / "first")
        assert saved.step == len(saved.curve) == 1
    first, same = (load_file(tmp_path / f / "first/weights.safetensors") for f in ("plain", "gated"))
    assert all(torch.equal(first[name], same[name]) for name in first)


def test_a_checkpoint_of_whole_tensors_without_an_index_still_resumes(tmp_path):
    """As written until 0.1: all weights in one file, all of the optimizer's tensors in another."""
    saved, fresh, store = Training("lora", steps=2), Training("lora"), FileStore(tmp_path / "store")
    state, trained = saved.state(), models.trainable(saved.model)
    (tmp_path / "old").mkdir()
    save_file({name: state[name] for name in trained}, tmp_path / "old/weights.safetensors")
    moments = {name: tensor for name, tensor in state.items() if name not in trained}
    save_file(moments, tmp_path / "old/optimizer.safetensors")
    (tmp_path / "old/progress.json").write_text(json.dumps(saved.progress._asdict()))
    publish(store, tmp_path / "old", "trainings/run/step-00000002")
    checkpoints = Checkpoints(store, "run", 2)
    assert fresh.resume(checkpoints) == saved.progress and equal(saved, fresh)
    assert checkpoints.fetch(2, tmp_path / "fetched") == saved.progress
    fetched = load_file(tmp_path / "fetched/weights.safetensors")
    assert all(torch.equal(fetched[name], weight) for name, weight in whole_weights(saved.model))


def test_a_save_of_a_step_that_is_there_replaces_it_and_leaves_nothing_of_a_killed_attempt(tmp_path):
    store = FileStore(tmp_path / "store")
    checkpoints, training = Checkpoints(store, "run", 2), Training("lora", 2)
    training.save(checkpoints)
    before = set(store.list("trainings/run/"))
    store.put_bytes("trainings/run/step-00000002/weights-00001-0123456789abcdef.safetensors", b"killed")
    training.save(checkpoints)
    assert set(store.list("trainings/run/")) == before
    other = Training("lora", 3)
    other.progress = training.progress
    other.save(checkpoints)
    resumed = Training("lora")
    assert resumed.resume(checkpoints) == training.progress and equal(resumed, other)
