"""Index of a checkpoint: which file holds which part of which tensor."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import safe_open
from torch import Tensor

WEIGHTS, OPTIMIZER = "weights", "optimizer"
"""Kinds of files: who scores a checkpoint does not download the optimizer's, which are twice as large."""


class Part(msgspec.Struct, frozen=True):
    """A box of a tensor, stored under the tensor's name."""

    file: str
    offsets: tuple[int, ...]
    shape: tuple[int, ...]


class Parts(msgspec.Struct, frozen=True):
    """Where a tensor is stored."""

    shape: tuple[int, ...]
    parts: list[Part]


Index = dict[str, Parts]
"""Tensors by name: a weight's, or ``<weight>|exp_avg``, ``|exp_avg_sq`` and ``|step`` of the optimizer."""


def kind_of(name: str) -> str:
    """Return which kind of file holds a tensor."""
    return OPTIMIZER if "|" in name else WEIGHTS


def weights(index: Index) -> Index:
    """Return the part of an index that is not the optimizer's."""
    return {name: tensor for name, tensor in index.items() if kind_of(name) == WEIGHTS}


def whole(index: Index, folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of an index by name, each put together from the files in ``folder``."""
    with ExitStack() as opened:
        files = open_files({name: folder / name for name in files_of(index)}, opened)
        for name, tensor in index.items():
            parts = [read_part(files[p.file], name, [0] * len(p.shape), p.shape) for p in tensor.parts]
            if len(parts) == 1:
                yield name, parts[0]
                continue
            made = torch.empty(tensor.shape, dtype=parts[0].dtype)
            for place, part in zip(tensor.parts, parts, strict=True):
                made[_box(place.offsets, place.shape)] = part
            yield name, made


def files_of(index: Index) -> list[str]:
    """Return the names of the files with parts of these tensors."""
    return sorted({part.file for tensor in index.values() for part in tensor.parts})


def index_of(paths: Iterable[Path]) -> Index:
    """Return the index of files with whole tensors, as checkpoints had before they were shared out."""
    index: Index = {}
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (safe_open is not a mapping)
                shape = tuple(file.get_slice(name).get_shape())
                index[name] = Parts(shape, [Part(path.name, (0,) * len(shape), shape)])
    return index


def open_files(paths: Mapping[str, Path], opened: ExitStack) -> dict[str, Any]:
    """Open safetensors files by name; ``opened`` closes them."""
    return {name: opened.enter_context(safe_open(path, framework="pt")) for name, path in paths.items()}


def read_part(file: Any, name: str, offsets: Iterable[int], shape: Iterable[int]) -> Tensor:
    """Read a box of a stored tensor."""
    box = _box(offsets, shape)
    found: Tensor = file.get_slice(name)[box] if box else file.get_tensor(name)  # no box: one number
    return found


def _box(offsets: Iterable[int], shape: Iterable[int]) -> tuple[slice, ...]:
    return tuple(slice(start, start + size) for start, size in zip(offsets, shape, strict=True))
