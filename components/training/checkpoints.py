"""Checkpoints of a training run in the store: committed whole, found again by the run's identity.

Layout: ``trainings/<training_id>/step-<8 digits>/{weights,optimizer}.safetensors, progress.json`` and, last
of all, the manifest with the SHA-256 of each. A checkpoint without a manifest, or with one that does not
verify, does not exist. No pickle anywhere, and no random state: the loop seeds each step by its number.
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
    """How far a run is; what a resumed one starts from."""

    step: int
    """Steps done, so also the index of the next one."""
    tokens: int
    answer_tokens: int
    padding_tokens: int
    curve: list[dict[str, float]]
    """One record a step: tokens, loss, learning_rate, grad_norm."""
    compiled: bool | None = None
    """What a compile trial decided; a resumed run keeps to it, for compiled sums round otherwise."""
    shared_tokens: int = 0
    """Trained tokens that were not computed: an example before had computed them (``prefixes.py``)."""

    @property
    def computed_tokens(self) -> int:
        """Return the tokens that went through the model."""
        return self.tokens + self.padding_tokens - self.shared_tokens


class Checkpoints:
    """The committed checkpoints of one training run; with a ``lease``, none is written after it is lost."""

    def __init__(self, store: Store, training_id: str, keep: int, lease: Lease | None = None) -> None:
        self._store, self._prefix, self._keep = store, f"trainings/{training_id}", keep
        self._lease = lease

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: TrainingProgress) -> int:
        """Commit a checkpoint, then delete all but the newest ``keep`` up to it; returns its bytes.

        Later ones are a larger budget's: were they counted, a smaller one would delete what it just saved.

        Raises:
            DataError: a weight is infinite or no number; the checkpoints before stay.
            StoreError: the store stays away, or another process holds the lease.
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
        """Put the newest checkpoint that verifies into model and optimizer; None when there is none.

        One beyond ``limit_tokens`` (a run with a larger budget wrote it) is passed over, as is one that is
        torn. An outage is not: it would restart the run and lose what is in the store.

        Raises:
            StoreError: the store stays away.
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
        """Download a checkpoint's weights, verified: ``weights.safetensors`` in ``folder``; for a watcher.

        Raises:
            FileNotFoundError, Torn: it has been deleted by now, or does not verify.
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
    """Put a checkpoint's trained weights into a model that was adapted by the same Recipe.

    Raises:
        DataError: other names or shapes than the model trains.
    """
    parameters = models.trainable(model)
    weights = load_file(folder / "weights.safetensors")
    if set(weights) != set(parameters) or any(weights[n].shape != p.shape for n, p in parameters.items()):
        raise DataError(f"{folder} holds other weights than this model trains: it belongs to another Recipe")
    put_weights(model, weights)


def put_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put trained weights, as ``whole_weights`` gave them, into a model that trains the same."""
    for name, parameter in models.trainable(model).items():
        sharding.copy_into_shard(parameter, weights[name])


def assist(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Send what the main process saves, where weights are sharded; keeps none of it."""
    for _ in whole_weights(model):
        pass
    if optimizer:
        for _ in _optimizer_tensors(models.trainable(model), optimizer):
            pass


def whole_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the trained weights by name, on the CPU; where they are sharded, every process must ask."""
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
        # fused AdamW keeps ``step`` on the parameter's device in float32, as it was saved
        optimizer.state[parameter] = {
            key: sharding.shard_like(value, parameter) for key, value in state.items()
        }
