"""One run.yaml, three bases and three sets of node pools: what the plan decides, as a page."""

from pathlib import Path
from typing import Any

from deepcuts.components.core import nodepools
from deepcuts.components.core.markdown import table
from deepcuts.components.core.nodepools import NodePool
from deepcuts.components.core.recipe import parse
from deepcuts.components.plan import decision, scoring
from deepcuts.components.plan.architecture import parse as shapes_of
from deepcuts.components.plan.choice import PlanTask
from deepcuts.components.plan.decision import PlanDecision, PlanTerms
from deepcuts.components.plan.placing import CompiledFor, Wish

ROOT = Path(__file__).parents[2]
RECIPE = {"budget_tokens": 20_000_000}
MAX_EXAMPLES, MAX_TOKENS = 500, 512
"""What a pipeline scores where nothing else is said."""
LLAMA = {"model_type": "llama", "torch_dtype": "bfloat16"}
BASES: dict[str, dict[str, Any]] = {
    "135M": LLAMA
    | {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    "1.5B": {
        "model_type": "qwen2",
        "torch_dtype": "bfloat16",
        "vocab_size": 151936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
    },
    "8B": LLAMA
    | {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
    },
}
"""Public architectures: SmolLM2-135M, Qwen2.5-1.5B, Llama 3.1 8B."""
POOLS = {
    "laptop": ROOT / "manifests/overlays/laptop/nodepools.yaml",
    "L4": ROOT / "manifests/base/nodepools.yaml",
    "data centre": ROOT / "docs/reference/pools-datacentre.yaml",
}


def decide(base: str, pools: dict[str, NodePool]) -> tuple[PlanDecision, dict[str, Any]]:
    """Return what ``finetune`` would decide, and what its pods would ask for; raises as the plan."""
    work = scoring.work(MAX_EXAMPLES, MAX_TOKENS, ["off"], "cpu")
    task = PlanTask(shapes_of(BASES[base]), parse(RECIPE), answer_share=1.0)
    wish = Wish(compiled_for=CompiledFor("nvidia.com/gpu"), watched=True)
    made = decision.decide(task, pools, wish, PlanTerms(), work)
    return made, decision.outputs(made, task, pools, task.recipe, work)


def row(base: str, name: str, path: Path) -> tuple[str, ...]:
    """Return the row of one base on one set of pools."""
    pools = nodepools.read(path)
    try:
        made, asked = decide(base, pools)
    except ValueError as error:
        return base, name, f"refused: {str(error).partition(':')[0]}", *[""] * 6
    best, watch = made.best, made.watch
    assert best.estimate and watch
    recomputed = ", recomputed" if best.gradient_checkpointing else ""
    hourly = pools[watch.pool].usd_per_hour
    parts = [
        (best.estimate.usd_p50, best.estimate.usd_p90),
        (made.scoring.usd_p50, made.scoring.usd_p90),
        tuple(None if hourly is None else held * hourly for held in best.estimate[1:3]),
    ]
    known = [part for part in parts if part[0] is not None and part[1] is not None]
    whole = [sum(part[side] or 0.0 for part in known) for side in (0, 1)]
    return (
        base,
        name,
        f"{best.pool} {best.strategy} x{best.devices}",
        f"{best.micro_batch_size}{recomputed}",
        f"{best.estimate.hours_p50:.3g} to {best.estimate.hours_p90:.3g}",
        f"{made.scoring.pool}, {watch.pool}",
        " / ".join(asked[f"{place}_memory"] for place in ("train", "scoring", "watch")),
        "unknown" if parts[0][0] is None else f"{parts[0][0]:.3g} to {parts[0][1]:.3g}",
        "unknown" if len(known) < len(parts) else f"{whole[0]:.3g} to {whole[1]:.3g}",
    )


def page(note: str) -> str:
    """Return the page."""
    rows = [row(base, name, path) for name, path in POOLS.items() for base in BASES]
    heads = (
        "base",
        "node pools",
        "training",
        "rows a pass",
        "hours",
        "scored, watched on",
        "memory: train / score / watch",
        "$ of training",
        "$ with scoring and watching",
    )
    return f"""{note}# Where a run goes

One run.yaml, LoRA on 20 million tokens with the defaults, and three bases (config.json alone: SmolLM2-135M,
Qwen2.5-1.5B, Llama 3.1 8B) on three sets of node pools: the laptop overlay's one node, of unknown price; the
L4 pools of `manifests/base/nodepools.yaml`; and those of `docs/reference/pools-datacentre.yaml`. Hours and
dollars are p50 to p90, **predicted and not measured**, with prices that are assumed. No formats are tried.
`deepcuts plan -f run.yaml --set nodepools=FILE` says the same of your own.

{table(heads, rows)}
"""
