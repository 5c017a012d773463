"""What is run, in the order of its importance: where the time ends early, what is missing is the least."""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

Part = Literal["path", "arm", "peer"]
Way = Literal["step", "torchrun", "capped", "ours", "trl"]
FIRST_SECONDS: dict[Part, float] = {"path": 20.0, "arm": 45.0, "peer": 45.0}
"""What a case of a part is taken to need before one of them has ended: most of it are imports. Assumed."""
MEMORY_CASE = "bf16, 64 rows a pass"


class Case(NamedTuple):
    """One process."""

    part: Part
    name: str
    recipe: dict[str, Any]
    shows: tuple[str, ...] = ()
    """Facts of the receipt for the page."""
    proof: tuple[str, str] | None = None
    """The fact that says that this path was taken, and how it begins then; None where no fact does."""
    way: Way = "step"
    cuda_only: bool = False


def cases(tokens: int, dry: bool) -> list[Case]:
    """Return all of them; arms train ``tokens``."""
    small = {"tokens_per_step": 2048, "budget_tokens": 2048 if dry else 16_384, "micro_batch_size": 4}
    small |= {"learning_rate": 1e-3, "compile": "off", "share_prefixes": "off"}
    large = {"tokens_per_step": 32_768, "budget_tokens": 65_536, "micro_batch_size": 64}
    arm = {"tokens_per_step": min(8192, tokens), "budget_tokens": tokens, "compile": "off"}
    arm |= {"share_prefixes": "off", "save_every_seconds": 3600.0}
    full, lora = {"method": "full"}, {"method": "lora"}
    precise = {} if dry else {"precision": "bf16"}  # 70 times slower than fp32 on some CPUs
    recompute = {"gradient_checkpointing": True}
    cut = ("cut_checkpointing", "applied")
    return [
        Case(
            "path",
            f"{'fp32' if dry else 'bf16'}, all weights",
            small | full | precise,
            ("recipe_precision", "packing"),
        ),
        Case(
            "path",
            "nf4 base, LoRA",
            small | lora | {"base_precision": "nf4"},
            ("weights", "weight_bytes", "packing"),
            cuda_only=True,
        ),
        Case("arm", "all weights", arm | full),
        Case("arm", "LoRA", arm | lora),
        Case("peer", "this loop, LoRA", arm | lora, way="ours"),
        Case("peer", "TRL SFTTrainer, LoRA", arm | lora, way="trl"),
        Case("path", "Liger kernels, LoRA", small | lora, ("packing",), ("liger_kernels", "on")),
        Case("path", "shared prefixes", small | {"share_prefixes": "on"}, (), ("prefix_sharing", "on")),
        Case("arm", "LoRA, shared prefixes", arm | lora | {"share_prefixes": "on"}, ("prefix_sharing",)),
        Case("path", "gradient checkpointing", small | recompute, ("recompute_seconds",), cut),
        Case("arm", "LoRA, gradient checkpointing", arm | lora | recompute),
        Case("path", MEMORY_CASE, small | large | full | precise, ("micro_batch_size",), cuda_only=True),
        Case(
            "path",
            "out of memory, then half the rows",
            small | large | full | precise,
            ("micro_batch_size",),
            ("out_of_memory", "True"),
            "capped",
            cuda_only=True,
        ),
        Case(
            "path",
            "FSDP, one process",
            small | full | {"strategy": "fsdp"},
            ("processes",),
            ("strategy", "fsdp"),
            "torchrun",
        ),
        Case("arm", "all weights, upper half of the blocks", arm | full | {"trained_layers": 0.5}),
        Case("path", "torch.compile", small | {"compile": "on"}, ("cut_compile",), ("compiled", "True")),
        Case("arm", "LoRA, compile", arm | lora | {"compile": "on"}, ("cut_compile",)),
    ]


def expected_seconds(case: Case, done: Iterable[dict[str, Any]]) -> float:
    """Return what a case is taken to need: as the slowest of its part that ended well so far.

    With none of them a first guess holds. A case that compiles takes longer and is ended when the time is.
    """
    took = [row["seconds"] for row in done if row["part"] == case.part and row["ended"] == "ok"]
    return max(took, default=FIRST_SECONDS[case.part])


def why_left_out(case: Case, left_seconds: float, done: list[dict[str, Any]], cuda: bool, lacks: str) -> str:
    """Return why a case is not run; empty where it is. ``lacks`` says what its part lacks."""
    if case.cuda_only and not cuda:
        return "needs a CUDA device"
    if lacks:
        return lacks
    needed = expected_seconds(case, done)
    return (
        f"{max(0.0, left_seconds):.0f} s were left, about {needed:.0f} s are needed"
        if left_seconds < needed
        else ""
    )
