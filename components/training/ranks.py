"""Make decisions jointly in all processes of a training, which otherwise would deadlock."""

from collections.abc import Callable
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from accelerate import Accelerator

T = TypeVar("T")


def agreed(decide: Callable[[T], bool], value: T, accelerator: Accelerator) -> bool:
    """Return the main process's decision on every rank."""
    answer = torch.zeros((), device=accelerator.device)
    if accelerator.is_main_process:
        answer += decide(value)
    accelerator.wait_for_everyone()
    return bool(accelerator.reduce(answer, reduction="sum"))


def total(value: float, accelerator: Accelerator) -> float:
    """Return the sum of ``value`` over ranks."""
    return float(accelerator.reduce(torch.tensor(value, device=accelerator.device), reduction="sum"))


def on_any(accelerator: Accelerator, *flags: bool) -> list[bool]:
    """Return each flag as true if it is true on any rank, as clocks and signals differ between ranks."""
    if accelerator.num_processes == 1:
        return list(flags)
    counts = accelerator.reduce(torch.tensor(flags, dtype=torch.float32, device=accelerator.device))
    return [count > 0 for count in counts.tolist()]


def on_every(accelerator: Accelerator, *flags: bool) -> list[bool]:
    """Return each flag as true only if it is true on every rank."""
    return [not anywhere for anywhere in on_any(accelerator, *(not flag for flag in flags))]


def from_main(make: Callable[[], T], group: dist.ProcessGroup | None) -> T:
    """Return on every rank of ``group`` what ``make`` returns on the first, or raise what it raises there."""
    if group is None:
        return make()
    found: list[T | Exception | None] = [None]
    if dist.get_rank(group) == 0:
        try:
            found = [make()]
        except Exception as error:  # the others wait for an answer
            found = [error]
    dist.broadcast_object_list(found, group=group, group_src=0)
    if isinstance(found[0], Exception):
        raise found[0]
    return cast(T, found[0])
