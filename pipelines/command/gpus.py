"""Common GPUs with figures from data sheets, from which ``plan`` predicts hours."""

import difflib
import shutil
import subprocess
from typing import NamedTuple

GIB = 2**30


class Gpu(NamedTuple):
    name: str
    memory_bytes: int
    flops_per_second: float
    """Dense matrix products in ``precision``, the one that recipe.precision auto uses there."""
    memory_bytes_per_second: float
    precision: str = "bf16"


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("T4", 15 * GIB, 8.1e12, 3.2e11, "fp32"),  # Turing has no bf16
        Gpu("L4", 24152899584, 1.21e14, 3.0e11),
        Gpu("A10", 22 * GIB, 1.25e14, 6.0e11),
        Gpu("A10G", 22 * GIB, 7.0e13, 6.0e11),
        Gpu("A40", 44 * GIB, 1.497e14, 6.96e11),
        Gpu("L40", 44 * GIB, 1.81e14, 8.64e11),
        Gpu("L40S", 44 * GIB, 3.62e14, 8.64e11),
        Gpu("RTX-3090", 23 * GIB, 7.1e13, 9.36e11),  # consumer cards: half the rate with fp32 accumulation
        Gpu("RTX-4090", 23 * GIB, 1.65e14, 1.008e12),
        Gpu("RTX-A6000", 47 * GIB, 1.548e14, 7.68e11),
        Gpu("A100-40GB", 39 * GIB, 3.12e14, 1.555e12),
        Gpu("A100-80GB", 79 * GIB, 3.12e14, 2.039e12),
        Gpu("H100-PCIe", 79 * GIB, 7.56e14, 2.0e12),
        Gpu("H100", 79 * GIB, 9.89e14, 3.35e12),
        Gpu("H200", 139 * GIB, 9.89e14, 4.8e12),
        Gpu("B200", 178 * GIB, 2.25e15, 7.7e12),
    )
}
"""Memory is as drivers report it, a little below the name's; SXM if a card has several forms. Rates are from

NVIDIA's data sheets and whitepapers, without their factor of 2 for sparsity."""


def named(name: str) -> Gpu:
    """Return a GPU by its name.

    Raises:
        ValueError: it is not in the table.
    """
    known = {each.lower(): gpu for each, gpu in GPUS.items()}
    if name.lower() not in known:
        near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
        hint = f"did you mean {known[near[0]].name!r}?" if near else f"known: {', '.join(GPUS)}"
        raise ValueError(
            f"--gpu {name!r}: not in the table: {hint}; or give none and put your card's figures into "
            "nodepools.yaml"
        )
    return known[name.lower()]


def found() -> str:
    """Return the table's name of this machine's GPU; empty if there is none or it is not in the table."""
    if not shutil.which("nvidia-smi"):
        return ""
    asked = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    said = subprocess.run(asked, capture_output=True, text=True, timeout=20).stdout.partition("\n")[0]
    return in_table(said)


def in_table(said: str) -> str:
    """Return the table's name for a line of nvidia-smi: ``NVIDIA A100-SXM4-80GB, 81920``."""
    model, _, mebibytes = said.rpartition(",")
    words = model.replace("-", " ").split()
    for gpu in sorted(GPUS.values(), key=lambda gpu: -len(gpu.name)):
        near = mebibytes.strip().isdigit() and abs(int(mebibytes) * 2**20 / gpu.memory_bytes - 1) < 0.15
        if set(gpu.name.split("-")) <= set(words) and near:
            return gpu.name
    return ""
