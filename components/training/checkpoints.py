"""Checkpoints of a training run in the store, committed atomically under the run's identity.

Layout: ``trainings/<training_id>/step-<8 digits>/{weights,optimizer}.safetensors, progress.json`` and, last
of all, the manifest with their SHA-256. A checkpoint whose manifest is missing or does not verify is ignored.
No pickle, and no random state: the loop seeds each step by its number.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from deepcuts.components.core import escape
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.store import Store, Torn, get_verified, manifest_at, publish, retrieve, withdraw
from deepcuts.components.training import models, sharding, weights_check
from deepcuts.components.training.lease import Lease


class TrainingProgress(NamedTuple):
    """Progress of a run, from which it is resumed."""

    step: int
    """Steps done; also the index of the next step."""
    tokens: int
    answer_tokens: int
    padding_tokens: int
    curve: list[dict[str, float]]
    """One record per step: tokens, loss, learning_rate, grad_norm."""
    compiled: bool | None = None
    """Decision of the compile trial; a resumed run keeps it, because compiled sums round differently."""
    shared_tokens: int = 0
    """Trained tokens not computed again because an earlier example shares them (``prefixes.py``)."""

    @property
    def computed_tokens(self) -> int:
        """Return the tokens that went through the model."""
        return self.tokens + self.padding_tokens - self.shared_tokens


class Checkpoints:
    """The committed checkpoints of a training run; with a ``lease``, none is written after it is lost."""

    def __init__(self, store: Store, training_id: str, keep: int, lease: Lease | None = None) -> None:
        self._store, self._prefix, self._keep = store, f"trainings/{training_id}", keep
        self._lease = lease

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: TrainingProgress) -> int:
        """Commit a checkpoint, then delete older ones except the newest ``keep``; return its size in bytes.

        Later checkpoints, of a run with a larger budget, are neither counted nor deleted.

        Raises:
            DataError: a weight is infinite or NaN; earlier checkpoints are kept.
            StoreError: the store is unreachable, or another process holds the lease.
        """
        if self._lease:
            self._lease.renew()
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as scratch:
            folder = Path(scratch)
            parameters = models.trainable(model)
            weights = dict(whole_weights(model))
            weights_check.check_finite(weights.items(), "lower recipe.learning_rate, or look at the examples")
            save_file(weights, folder / "weights.safetensors")
            save_file(dict(_optimizer_tensors(parameters, optimizer)), folder / "optimizer.safetensors")
            folder.joinpath("progress.json").write_text(json.dumps(progress._asdict()))
            size = sum(path.stat().st_size for path in folder.iterdir())
            publish(self._store, folder, self._key(progress.step))
        for step in [step for step in self.steps() if step <= progress.step][: -self._keep]:
            withdraw(self._store, self._key(step))
        return size

    def resume(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, limit_tokens: int
    ) -> TrainingProgress | None:
        """Load the newest valid checkpoint into model and optimizer; return None if there is none.

        Skips checkpoints beyond ``limit_tokens`` (of a run with a larger budget) and damaged ones. An outage
        is an error, because skipping would restart the run and lose what is in the store.

        Raises:
            StoreError: the store is unreachable.
        """
        for step in reversed(self.steps()):
            with tempfile.TemporaryDirectory(prefix="checkpoint-") as scratch:
                folder = Path(scratch) / "checkpoint"
                try:
                    retrieve(self._store, self._key(step), folder)
                except (Torn, FileNotFoundError) as error:
                    print(
                        escape.terminal(f"finetune: checkpoint {step} passed over: {error}"), file=sys.stderr
                    )
                    continue
                progress = TrainingProgress(**json.loads(folder.joinpath("progress.json").read_text()))
                if progress.tokens > limit_tokens:
                    continue
                load_weights(model, folder)
                _load_optimizer(
                    models.trainable(model), optimizer, load_file(folder / "optimizer.safetensors")
                )
                return progress
        return None

    def fetch(self, step: int, folder: Path) -> TrainingProgress:
        """Download a checkpoint's weights, verified, to ``weights.safetensors`` in ``folder``.

        Raises:
            FileNotFoundError, Torn: the checkpoint has been deleted meanwhile, or does not verify.
        """
        manifest = manifest_at(self._store, self._key(step))["files"]
        progress = folder.with_name("progress.json")
        for name, path in (
            ("weights.safetensors", folder / "weights.safetensors"),
            ("progress.json", progress),
        ):
            get_verified(self._store, f"{self._key(step)}/{name}", manifest[name], path)
        return TrainingProgress(**json.loads(progress.read_text()))

    def steps(self) -> list[int]:
        """List the steps with a manifest, oldest first."""
        names = {key.removeprefix(f"{self._prefix}/").split("/")[0] for key in self._committed()}
        return sorted(int(name.removeprefix("step-")) for name in names)

    def _committed(self) -> list[str]:
        return [key for key in self._store.list(f"{self._prefix}/step-") if key.endswith("/manifest.json")]

    def _key(self, step: int) -> str:
        return f"{self._prefix}/step-{step:08d}"


def load_weights(model: nn.Module, folder: Path) -> None:
    """Load a checkpoint's trained weights into a model prepared by the same Recipe.

    Raises:
        DataError: the names or shapes differ from those the model trains.
    """
    parameters = models.trainable(model)
    weights = load_file(folder / "weights.safetensors")
    if set(weights) != set(parameters) or any(weights[n].shape != p.shape for n, p in parameters.items()):
        raise DataError(f"{folder} holds other weights than this model trains: it belongs to another Recipe")
    put_weights(model, weights)


def put_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load trained weights, as returned by ``whole_weights``, into a model that trains the same ones."""
    for name, parameter in models.trainable(model).items():
        sharding.copy_into_shard(parameter, weights[name])


def assist(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Take part in gathering sharded weights that the main process saves."""
    for _ in whole_weights(model):
        pass
    if optimizer:
        for _ in _optimizer_tensors(models.trainable(model), optimizer):
            pass


def whole_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the trained weights by name, on the CPU; if they are sharded, every process must call this."""
    for name, parameter in models.trainable(model).items():
        yield name, sharding.full_tensor(parameter)


def _optimizer_tensors(
    parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> Iterator[tuple[str, Tensor]]:
    """Return AdamW's state by parameter name: ``exp_avg``, ``exp_avg_sq`` and ``step`` of each."""
    for name, parameter in parameters.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            yield f"{name}|{key}", sharding.full_tensor(value)


def _load_optimizer(
    parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> None:
    for name, parameter in parameters.items():
        state: dict[str, Any] = {
            key.rsplit("|", 1)[1]: value for key, value in tensors.items() if key.rsplit("|", 1)[0] == name
        }
        # fused AdamW keeps ``step`` in float32 on the parameter's device, as saved
        optimizer.state[parameter] = {
            key: sharding.shard_like(value, parameter) for key, value in state.items()
        }
