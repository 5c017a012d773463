import json

import pytest
import torch

from deepcuts.components.core.errors import StoreError
from deepcuts.components.core.store import FileStore
from deepcuts.components.training import adapters, models
from deepcuts.components.training.checkpoints import Checkpoints, Saved, TrainingProgress
from tests.training import tiny

METHODS = ["full", "lora"]
FILES = ["weights-*.safetensors", "optimizer-*.safetensors", "index.json", "progress.json", "manifest.json"]


class Training:
    """A model and its optimizer after ``steps`` steps of arbitrary gradients."""

    def __init__(self, method: str, steps: int = 0) -> None:
        torch.set_num_threads(1)
        recipe = tiny.recipe(method=method)
        self.model = adapters.adapt(tiny.model("qwen2"), recipe, torch.device("cpu"))
        self.optimizer = torch.optim.AdamW(models.trainable(self.model).values(), lr=1e-3, fused=True)
        for step in range(steps):
            for number, parameter in enumerate(models.trainable(self.model).values()):
                generator = torch.Generator().manual_seed(100 * step + number)
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            self.optimizer.step()
        self.progress = TrainingProgress(
            steps, 100 * steps, 50 * steps, 7, [{"loss": 0.1 * s} for s in range(steps)]
        )

    def state(self) -> dict[str, torch.Tensor]:
        """Copies of all trained weights and of the optimizer's tensors."""
        found = {}
        for name, parameter in models.trainable(self.model).items():
            found[name] = parameter.detach().clone()
            for key, value in self.optimizer.state.get(parameter, {}).items():
                found[f"{name}|{key}"] = value.clone()
        return found

    def save(self, checkpoints: Checkpoints) -> Saved:
        return checkpoints.save(self.model, self.optimizer, self.progress).result()

    def resume(self, checkpoints: Checkpoints, limit_tokens: int = 10_000) -> TrainingProgress | None:
        return checkpoints.resume(self.model, self.optimizer, limit_tokens)


def equal(one: Training, other: Training) -> bool:
    a, b = one.state(), other.state()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def store(tmp_path):
    return FileStore(tmp_path / "store")


def checkpoints_in(store, keep: int = 2) -> Checkpoints:
    return Checkpoints(store, "run", keep)


def folder_of(tmp_path, step: int):
    return tmp_path / f"store/trainings/run/step-{step:08d}"


def file_of(tmp_path, step: int, pattern: str):
    (found,) = folder_of(tmp_path, step).glob(pattern)
    return found


@pytest.mark.parametrize("method", METHODS)
def test_resume_restores_weights_optimizer_and_progress_bit_by_bit(store, tmp_path, method):
    saved, fresh = Training(method, steps=2), Training(method)
    size = saved.save(checkpoints_in(store)).size_bytes
    assert not equal(saved, fresh)
    assert fresh.resume(checkpoints_in(store)) == saved.progress
    assert equal(saved, fresh)
    assert size == sum(file_of(tmp_path, 2, name).stat().st_size for name in FILES[:-1])


def test_resume_without_any_checkpoint_changes_nothing(store):
    training = Training("full")
    before = training.state()
    assert training.resume(checkpoints_in(store)) is None
    assert all(torch.equal(value, before[name]) for name, value in training.state().items())


def test_only_the_newest_are_kept(store):
    for steps in (1, 2, 3, 4):
        Training("lora", steps).save(checkpoints_in(store, keep=2))
    assert checkpoints_in(store).steps() == [3, 4]
    assert {key.split("/")[2] for key in store.list("trainings/run/")} == {"step-00000003", "step-00000004"}


def test_a_smaller_budget_passes_over_what_a_larger_one_saved_and_keeps_its_own(store):
    for steps in (3, 4):
        Training("lora", steps).save(checkpoints_in(store))
    assert Training("lora").resume(checkpoints_in(store), limit_tokens=250) is None
    Training("lora", 2).save(checkpoints_in(store))
    smaller = Training("lora")
    assert smaller.resume(checkpoints_in(store), limit_tokens=250).step == 2
    assert checkpoints_in(store).steps() == [2, 3, 4]


def torn(data: bytes) -> list[bytes]:
    """The file cut short, and with one byte changed, at about 12 places each, first and last included."""
    places = sorted({*range(0, len(data), max(1, len(data) // 12)), len(data) - 2, len(data) - 1})
    changed = [
        data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :] for at in places for flip in (0x01, 0xFF)
    ]
    return [data[:at] for at in places] + changed


@pytest.mark.parametrize("name", FILES)
def test_a_torn_checkpoint_falls_back_to_the_one_before_and_is_never_loaded(store, tmp_path, name):
    before, newest, resumed = Training("lora", 1), Training("lora", 2), Training("lora")
    before.save(checkpoints_in(store))
    newest.save(checkpoints_in(store))
    path = file_of(tmp_path, 2, name)
    for data in torn(path.read_bytes()):
        path.write_bytes(data)
        with torch.no_grad():
            for parameter in models.trainable(resumed.model).values():
                parameter.zero_()
        progress = resumed.resume(checkpoints_in(store))
        if name == "manifest.json" and progress.step == 2:  # white space, or a size: what counts is the hash
            assert equal(resumed, newest)
        else:
            assert progress == before.progress and equal(resumed, before)
    path.unlink()
    assert resumed.resume(checkpoints_in(store)).step == 1


@pytest.mark.parametrize("name", FILES)
def test_a_torn_only_checkpoint_starts_the_run_anew(store, tmp_path, name, capsys):
    Training("lora", 1).save(checkpoints_in(store))
    file_of(tmp_path, 1, name).write_bytes(b"torn")
    fresh = Training("lora")
    before = fresh.state()
    assert fresh.resume(checkpoints_in(store)) is None
    assert all(torch.equal(value, before[key]) for key, value in fresh.state().items())
    assert "checkpoint 1 passed over" in capsys.readouterr().err


def test_a_torn_checkpoint_of_this_step_is_saved_anew(store, tmp_path):
    training = Training("lora", 2)
    training.save(checkpoints_in(store))
    file_of(tmp_path, 2, FILES[0]).write_bytes(b"torn")
    training.save(checkpoints_in(store))
    resumed = Training("lora")
    assert resumed.resume(checkpoints_in(store)).step == 2 and equal(resumed, training)


@pytest.mark.parametrize("broken", ["get", "get_bytes", "list"])
def test_an_outage_is_raised_and_never_starts_the_run_anew(store, broken):
    Training("lora", 2).save(checkpoints_in(store))

    class Away(FileStore):
        """A store that answers everything but one kind of request."""

    def away(self, *args):
        raise StoreError("the store stays away")

    setattr(Away, broken, away)
    with pytest.raises(StoreError, match="stays away"):
        Training("lora").resume(checkpoints_in(Away(store._root)))


def test_weights_of_another_recipe_are_refused(store, tmp_path):
    Training("lora", 1).save(checkpoints_in(store))
    with pytest.raises(ValueError, match="belongs to another Recipe"):
        Training("full").resume(checkpoints_in(store))


def test_a_checkpoint_holds_no_pickle(store, tmp_path):
    Training("full", 1).save(checkpoints_in(store))
    assert {file_of(tmp_path, 1, name) for name in FILES} == set(folder_of(tmp_path, 1).iterdir())
    assert json.loads((folder_of(tmp_path, 1) / "progress.json").read_text())["step"] == 1
