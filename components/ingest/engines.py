"""Convert rows in processes of this machine, or in those of a Ray cluster, with the same result."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

from deepcuts.components.ingest.convert import (
    Chunk,
    Converted,
    Converter,
    Numbered,
    chunked,
    converted,
    in_order,
)
from deepcuts.components.ingest.rows import BadRow
from deepcuts.components.rayjob.session import session
from deepcuts.components.rayjob.settings import Engine, RayCluster

if TYPE_CHECKING:
    from ray import ObjectRef

Conversion = Callable[[Iterable[Numbered], Converter], Iterator[Converted | BadRow]]


@contextmanager
def conversion(engine: Engine, cluster: RayCluster) -> Iterator[Conversion]:
    """Yield the function that converts rows."""
    if engine == "local":
        yield converted
        return
    with session(cluster.workers):
        yield converted_on_ray


def converted_on_ray(rows: Iterable[Numbered], converter: Converter) -> Iterator[Converted | BadRow]:
    """Yield all rows converted, in order, a chunk at a time on each core of the cluster.

    Tasks of Ray's core, not Ray Data: most formats can only be read one row after another, which is done
    here, and Ray Data has no source that is fed by the process that starts it.
    """
    import ray  # takes a second, and only this engine needs it

    held, work = [ray.put(converter)], ray.remote(_work)
    cores = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
    yield from in_order(chunked(rows), lambda chunk: work.remote(held, chunk).future(), cores)


def _work(held: Sequence["ObjectRef[Converter]"], chunk: list[Numbered]) -> Chunk:
    return _converter(held[0]).chunk(chunk)


@lru_cache(maxsize=1)
def _converter(held: "ObjectRef[Converter]") -> Converter:
    """Return the converter, once per process: rebuilding a tokenizer of 50,000 tokens takes seconds."""
    import ray

    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is a process per core already
    return ray.get(held)
