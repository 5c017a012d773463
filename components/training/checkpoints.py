"""Checkpoints of a training run in the store, committed atomically under the run's identity.

Layout: ``trainings/<training_id>/step-<8 digits>/`` with ``weights-<rank>-<hash>.safetensors`` and
``optimizer-<rank>-<hash>.safetensors`` of each process, ``index.json`` (which file holds which part of which
tensor), ``progress.json`` and, last of all, the manifest with their SHA-256. A checkpoint whose manifest is
missing or does not verify is ignored. Any number of processes can resume from it. No pickle, and no random
state: the loop seeds each step by its number. Older ones hold whole tensors in ``weights.safetensors`` and
``optimizer.safetensors``, without an index.
"""

import json
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from concurrent import futures
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from deepcuts.components.core import escape
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.manifest import MANIFEST, FileEntry, entry_of
from deepcuts.components.core.store import Store, Torn, commit, get_verified, manifest_at, upload, withdraw
from deepcuts.components.core.strict import MALFORMED
from deepcuts.components.training import models, ranks, sharding, shares, tensor_index
from deepcuts.components.training.lease import Lease
from deepcuts.components.training.tensor_index import Index

INDEX, PROGRESS = "index.json", "progress.json"
OTHER_RECIPE = "holds other weights than this model trains: it belongs to another Recipe"
SLOWEST_SHARE = timedelta(days=1)
"""How long one process's upload may take longer than another's; a process that died is noticed at once."""


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


class Saved(NamedTuple):
    """A committed checkpoint."""

    size_bytes: int
    """Of all its files; 0 except on the main process."""
    seconds: float
    """From the start of the save to its commit."""
    upload_cpu_seconds: float
    """CPU time of this process after its share was copied."""


class Contents(NamedTuple):
    """What a committed checkpoint holds."""

    files: dict[str, FileEntry]
    progress: TrainingProgress
    tensors: Index


class Checkpoints:
    """The committed checkpoints of a training run; with a ``lease``, none is written after it is lost.

    With several processes, each makes one at the same time, and each calls ``save`` and ``resume``.
    """

    def __init__(self, store: Store, training_id: str, keep: int, lease: Lease | None = None) -> None:
        self._store, self._prefix, self._keep = store, f"trainings/{training_id}", keep
        self._lease = lease
        # a group of its own, as a save talks in the background, and on the CPU, as NCCL waits on the device
        self._group = dist.new_group(backend="gloo", timeout=SLOWEST_SHARE) if dist.is_initialized() else None

    def save(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: TrainingProgress
    ) -> "futures.Future[Saved]":
        """Copy this process's share of a checkpoint to local disk, and commit it in the background.

        Wait for the result before the next save. The commit deletes older checkpoints except the newest
        ``keep``; later ones, of a run with a larger budget, are neither counted nor deleted.

        Raises (or the result does):
            DataError: a weight is infinite or NaN; earlier checkpoints are kept.
            StoreError: the store is unreachable, or another process holds the lease.
        """
        # as training appends to the curve, and changes the tensors once ``staged`` is complete
        state, written = shares.state(models.trainable(model), optimizer), json.dumps(progress._asdict())
        staged: futures.Future[float] = futures.Future()
        thread = futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns that a single process saves alone
            saving = thread.submit(self._save, state, progress.step, written, staged)
            thread.shutdown(wait=False)
            waited: list[futures.Future[Any]] = [staged, saving]
            futures.wait(waited, return_when=futures.FIRST_COMPLETED)
        if saving.done():
            saving.result()
        return saving

    def _save(
        self, state: dict[str, Tensor], step: int, progress: str, staged: "futures.Future[float]"
    ) -> Saved:
        """Run a save of all processes in this thread."""
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as scratch:
            writer = shares.ShareWriter(
                self._store,
                self._key(step),
                Path(scratch),
                staged,
                begin=self._renew,
                commit=partial(self._commit, step, progress, Path(scratch)),
            )
            try:
                save(
                    state,
                    storage_writer=writer,
                    planner=shares.Planner(),
                    process_group=self._group,
                    no_dist=self._group is None,
                )
            except CheckpointException as error:
                raise shares.cause(error) from None
        cpu_seconds = time.thread_time() - staged.result()
        return Saved(writer.size_bytes, time.monotonic() - began, cpu_seconds)

    def _commit(
        self, step: int, progress: str, scratch: Path, index: Index, files: dict[str, FileEntry]
    ) -> int:
        """Commit files uploaded by all processes, delete what is older; return the checkpoint's bytes."""
        key = self._key(step)
        (scratch / INDEX).write_bytes(msgspec.json.encode(index))
        (scratch / PROGRESS).write_text(progress)
        files |= {name: entry_of(scratch / name) for name in (INDEX, PROGRESS)}
        self._renew()  # uploads take minutes, in which another process may have taken over
        for name in (INDEX, PROGRESS):
            upload(self._store, scratch / name, f"{key}/{name}", files[name])
        commit(self._store, key, {"files": files})
        wanted = {f"{key}/{name}" for name in (*files, MANIFEST)}
        for stray in set(self._store.list(f"{key}/")) - wanted:  # of an attempt that was killed
            self._store.delete(stray)
        for older in [known for known in self.steps() if known <= step][: -self._keep]:
            withdraw(self._store, self._key(older))
        return sum(entry["bytes"] for entry in files.values())

    def _renew(self) -> None:
        if self._lease:
            self._lease.renew()

    def resume(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, limit_tokens: int
    ) -> TrainingProgress | None:
        """Load the newest valid checkpoint into model and optimizer; return None if there is none.

        Skips checkpoints beyond ``limit_tokens`` (of a run with a larger budget) and damaged ones. An outage
        is an error, because skipping would restart the run and lose what is in the store.

        Raises:
            StoreError: the store is unreachable.
            DataError: the checkpoint is of another Recipe.
        """
        for step in reversed(ranks.from_main(self.steps, self._group)):
            with tempfile.TemporaryDirectory(prefix="checkpoint-") as scratch:
                folder = Path(scratch)
                try:
                    stored = ranks.from_main(partial(self._open, step, folder), self._group)
                    if stored.progress.tokens > limit_tokens:
                        continue
                    self._load(model, optimizer, step, stored, folder)
                except (Torn, FileNotFoundError) as error:
                    print(
                        escape.terminal(f"finetune: checkpoint {step} passed over: {error}"), file=sys.stderr
                    )
                    continue
                return stored.progress
        return None

    def _load(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, stored: Contents, folder: Path
    ) -> None:
        """Load this process's share of a checkpoint; every file is verified before any tensor is changed."""
        parameters = models.trainable(model)
        shapes = {name: tensor.shape for name, tensor in tensor_index.weights(stored.tensors).items()}
        if shapes != {name: tuple(parameter.shape) for name, parameter in parameters.items()}:
            raise DataError(f"{self._store.uri(self._key(step))} {OTHER_RECIPE}")
        state = {name: parameter.detach() for name, parameter in parameters.items()}
        state |= shares.moments(parameters, stored.tensors)
        reader = shares.ShareReader(stored.tensors, partial(self._get, step, stored.files, folder))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as in save
            try:
                load(state, storage_reader=reader, process_group=self._group, no_dist=self._group is None)
            except CheckpointException as error:
                raise shares.cause(error, passing=(Torn, FileNotFoundError)) from None
        for name in state.keys() - parameters.keys():
            of, key = name.rsplit("|", 1)
            optimizer.state[parameters[of]][key] = state[name]

    def fetch(self, step: int, folder: Path) -> TrainingProgress:
        """Download a checkpoint's weights, verified and whole, to ``weights.safetensors`` in ``folder``.

        Raises:
            FileNotFoundError, Torn: the checkpoint has been deleted meanwhile, or does not verify.
        """
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as scratch:
            stored = self._open(step, Path(scratch), kinds=(tensor_index.WEIGHTS,))
            weights = tensor_index.weights(stored.tensors)
            for name in tensor_index.files_of(weights):
                self._get(step, stored.files, Path(scratch), name)
            folder.mkdir(parents=True, exist_ok=True)
            save_file(dict(tensor_index.whole(weights, Path(scratch))), folder / "weights.safetensors")
        return stored.progress

    def _open(
        self, step: int, folder: Path, kinds: tuple[str, ...] = (tensor_index.WEIGHTS, tensor_index.OPTIMIZER)
    ) -> Contents:
        """Read what a checkpoint holds; raises FileNotFoundError or Torn."""
        files = manifest_at(self._store, self._key(step))["files"]
        get = partial(self._get, step, files, folder)
        progress = TrainingProgress(**json.loads(get(PROGRESS).read_bytes()))
        if INDEX not in files:
            whole = [get(f"{kind}.safetensors") for kind in kinds]
            return Contents(files, progress, tensor_index.index_of(whole))
        try:
            return Contents(files, progress, msgspec.json.decode(get(INDEX).read_bytes(), type=Index))
        except MALFORMED as error:
            raise Torn(f"{self._store.uri(self._key(step))}/{INDEX} is no index ({error})") from error

    def _get(self, step: int, files: dict[str, FileEntry], folder: Path, name: str) -> Path:
        """Download one file of a checkpoint, verified, unless ``folder`` has it; return its path."""
        path = folder / name
        if name not in files:
            raise Torn(f"{self._store.uri(self._key(step))} lacks {name}")
        if not path.exists():
            get_verified(self._store, f"{self._key(step)}/{name}", files[name], path)
        return path

    def steps(self) -> list[int]:
        """List the steps with a manifest, oldest first."""
        keys = [key for key in self._store.list(f"{self._prefix}/step-") if key.endswith(f"/{MANIFEST}")]
        return sorted(int(key.split("/")[-2].removeprefix("step-")) for key in keys)

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
        raise DataError(f"{folder} {OTHER_RECIPE}")
    put_weights(model, weights)


def put_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load trained weights, as returned by ``whole_weights``, into a model that trains the same ones."""
    for name, parameter in models.trainable(model).items():
        sharding.copy_into_shard(parameter, weights[name])


def assist(model: nn.Module) -> None:
    """Take part in gathering sharded weights for the main process."""
    for _ in whole_weights(model):
        pass


def whole_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the trained weights by name, on the CPU; if they are sharded, every process must call this."""
    for name, parameter in models.trainable(model).items():
        yield name, sharding.full_tensor(parameter)
