"""Shares of a checkpoint: each process writes its own part of the tensors and reads only what it needs.

``torch.distributed.checkpoint`` plans it: each process writes its shard of a sharded tensor, replicated ones
are divided among the processes, and any number of processes can read them. Its own formats are not used, as
their metadata is pickled, or in the header of each file, so that a process would have to download all of
them. Here, shares are safetensors, and an index says which file holds which part.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    WriteItem,
)
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from deepcuts.components.core.manifest import FileEntry, entry_of
from deepcuts.components.core.store import Store, upload
from deepcuts.components.training import sharding, tensor_index, weights_check
from deepcuts.components.training.tensor_index import OPTIMIZER, WEIGHTS, Index, Part, Parts, kind_of


class Planner(DefaultSavePlanner):
    """Plans who writes what, and refuses diverged weights before anything is written."""

    def create_local_plan(self) -> SavePlan:
        """Plan this process's share; raises DataError, on all of them, if a weight is infinite or NaN."""
        weights = (
            (name, sharding.local(value))
            for name, value in self.state_dict.items()
            if kind_of(name) == WEIGHTS
        )
        weights_check.check_finite(weights, "lower recipe.learning_rate, or look at the examples")
        return super().create_local_plan()


class UploadedPart(NamedTuple):
    """A part of a tensor, in the store."""

    shape: tuple[int, ...]
    """Of the tensor."""
    part: Part
    entry: FileEntry
    """Of the part's file."""


class ShareWriter(StorageWriter):
    """Copies this process's share to ``folder``, completes ``staged``, and uploads it under ``prefix``.

    After ``staged``, whose result is this thread's CPU time so far, training may change the tensors. The copy
    is on local disk, as in memory it would be 3 / 4 of weights, gradients and Adam's state once more. The
    main process calls ``begin`` before anyone writes, and once all have uploaded
    ``commit(index, entries)``, whose ``size_bytes`` it keeps. An object's name ends in its hash, so that a
    process whose run lost the lease overwrites nothing of the next.
    """

    def __init__(
        self,
        store: Store,
        prefix: str,
        folder: Path,
        staged: "futures.Future[float]",
        begin: Callable[[], None],
        commit: Callable[[Index, dict[str, FileEntry]], int],
    ) -> None:
        self._store, self._prefix, self._folder = store, prefix, folder
        self._staged, self._begin, self._commit = staged, begin, commit
        self.size_bytes = 0

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Give each process its number."""
        self._begin()
        return [dataclasses.replace(plan, storage_data=rank) for rank, plan in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> "Future[list[WriteResult]]":
        """Write, hash and upload this process's files, one of each kind."""
        staged: dict[Path, list[WriteItem]] = {}
        for kind in (WEIGHTS, OPTIMIZER):
            items = [item for item in plan.items if kind_of(item.index.fqn) == kind]
            if items:
                path = self._folder / f"{kind}.safetensors"
                save_file({item.index.fqn: _staged(planner.resolve_data(item)) for item in items}, path)
                staged[path] = items
        self._staged.set_result(time.thread_time())
        done: Future[list[WriteResult]] = Future()
        done.set_result(
            [
                result
                for path, items in staged.items()
                for result in self._upload(path, plan.storage_data, items)
            ]
        )
        return done

    def _upload(self, path: Path, rank: int, items: list[WriteItem]) -> Iterator[WriteResult]:
        entry = entry_of(path)
        name = f"{path.stem}-{rank:05d}-{entry['sha256'][:16]}.safetensors"
        upload(self._store, path, f"{self._prefix}/{name}", entry)
        for item in items:
            if item.tensor_data is None:
                raise TypeError(f"{item.index.fqn} is not a tensor: only tensors are saved")
            chunk = item.tensor_data.chunk
            part = Part(name, tuple(chunk.offsets), tuple(chunk.sizes))
            written = UploadedPart(tuple(item.tensor_data.size), part, entry)
            yield WriteResult(item.index, entry["bytes"], written)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Commit, on the main process, what all processes report."""
        index: Index = {}
        entries: dict[str, FileEntry] = {}
        for result in (result for of_rank in results for result in of_rank):
            written: UploadedPart = result.storage_data
            index.setdefault(result.index.fqn, Parts(written.shape, [])).parts.append(written.part)
            entries[written.part.file] = written.entry
        self.size_bytes = self._commit(index, entries)

    def reset(self, checkpoint_id: Any = None) -> None: ...

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None: ...

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True


class ShareReader(StorageReader):
    """Reads parts from files, which ``fetch`` brings by name before any process changes a tensor."""

    def __init__(self, index: Index, fetch: Callable[[str], Path]) -> None:
        self._index, self._fetch = index, fetch
        self._paths: dict[str, Path] = {}

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return Metadata(
            {
                name: TensorStorageMetadata(
                    TensorProperties(),
                    torch.Size(tensor.shape),
                    [ChunkStorageMetadata(torch.Size(p.offsets), torch.Size(p.shape)) for p in tensor.parts],
                )
                for name, tensor in self._index.items()
            }
        )

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Fetch the files this process needs; an error here ends the load on all processes."""
        self._paths = {name: self._fetch(name) for name in sorted({self._file(item) for item in plan.items})}
        return plan

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> "Future[None]":
        """Copy this process's parts into its tensors."""
        with ExitStack() as opened:
            files = tensor_index.open_files(self._paths, opened)
            for item in plan.items:
                name = item.storage_index.fqn
                part = tensor_index.read_part(
                    files[self._file(item)], name, item.storage_offsets, item.lengths
                )
                target = planner.resolve_tensor(item).detach()
                target.copy_(part)
                planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _file(self, item: ReadItem) -> str:
        parts = self._index[item.storage_index.fqn].parts
        return next(p.file for p in parts if p.offsets == tuple(item.storage_index.offset or ()))

    def reset(self, checkpoint_id: Any = None) -> None: ...

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None: ...

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return True


def state(parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return weights and AdamW's state under the names of an index."""
    found = {}
    for name, parameter in parameters.items():
        found[name] = parameter.detach()
        for key, value in optimizer.state.get(parameter, {}).items():
            found[f"{name}|{key}"] = value
    return found


def moments(parameters: Mapping[str, nn.Parameter], index: Index) -> dict[str, Tensor]:
    """Return new tensors for the optimizer's state in an index, sharded like their parameters."""
    made = {}
    for name, tensor in index.items():
        if kind_of(name) == OPTIMIZER:
            parameter = parameters[name.rsplit("|", 1)[0]].detach()
            alike = tensor.shape == parameter.shape
            # fused AdamW keeps ``step`` in float32 on the parameter's device
            made[name] = torch.zeros_like(parameter) if alike else torch.zeros((), device=parameter.device)
    return made


def cause(error: CheckpointException, passing: tuple[type[Exception], ...] = ()) -> BaseException:
    """Return what failed on a process; of several, rather one that is not among the ``passing``."""
    found = [failure for failure, _ in error.failures.values()]
    return next((one for one in found if not isinstance(one, passing)), found[0])


def _staged(tensor: Any) -> Tensor:
    on_cpu: Tensor = tensor.detach().cpu()
    return on_cpu.contiguous()
