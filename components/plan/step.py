"""Plan: decide where and how a Recipe runs, and at what price, before paying for it (cuts 4 and 10)."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from deepcuts.components.core import cli, epochs, examples, files, run_records
from deepcuts.components.core.bounds import Count, NonNegative, PositiveShare, ShareBelowOne
from deepcuts.components.core.nodepools import NodePools
from deepcuts.components.core.receipts import Facts
from deepcuts.components.core.recipe import Recipe, changed
from deepcuts.components.core.verdicts import Verdict
from deepcuts.components.distill.distill_config import check_questions
from deepcuts.components.ledger.charges import charges, read_receipts
from deepcuts.components.plan import architecture, placing
from deepcuts.components.plan import decision as decisions
from deepcuts.components.plan import request as requests
from deepcuts.components.plan.budget import Budget
from deepcuts.components.plan.choice import Measurement, PlanOption
from deepcuts.components.plan.decision import PlanDecision
from deepcuts.components.plan.forecast import data_tokens, forecast
from deepcuts.components.plan.placing import CompiledFor, Spot
from deepcuts.components.plan.report import markdown
from deepcuts.components.plan.students import Teaching
from deepcuts.components.quantize.served import foresee
from deepcuts.components.tune.space import Dimension

UNSHARED = "hours are for all tokens: training computes prefixes shared by examples once, which takes less"
Objective = Literal["cheapest", "fastest"]


def plan(
    base: Path,
    train: Path,
    taught: Teaching,
    receipts: dict[str, Path],
    run: str,
    recipe: Recipe,
    space: dict[str, Dimension],
    parallel: Count,
    nodepools: NodePools,
    deadline_hours: NonNegative,
    budget_usd: NonNegative,
    reserve_share: ShareBelowOne,
    objective: Objective,
    answer_share: PositiveShare,
    pool: str,
    spot: Spot,
    compiled_for: CompiledFor,
    watched: bool,
    max_examples: Count,
    max_tokens: Count,
    serve_on: str,
    candidates: list[str],
    calibrate: Measurement,
    decision: Path,
    report: Path,
    planned: Path,
    placed: dict[str, Path],
) -> Facts:
    """Choose pool, strategy, micro-batch and checkpointing of a training, and where its models are scored.

    component.py describes the arguments. ``budget_usd`` minus the charges of ``receipts`` and of earlier
    tasks of ``run`` (URI of an artifact of this task) and minus ``reserve_share`` becomes the
    ``budget_seconds`` of the ``planned`` recipe; the pods' requests are written to the files of ``placed``.

    Raises:
        DataError: the base cannot be saved and reloaded, or is quantized; a teacher or student is to answer
            plain text.
        ValueError: nothing fits, or meets the deadline or the budget, or the base does not support a format.
    """
    given, pools = dict(locals()), nodepools.by_name
    check_questions(examples.stream(train), taught.method)
    spent = {task: read_receipts(path) for task, path in receipts.items()}
    spent |= run_records.read(run, pools).receipts if run else {}
    whole = epochs.settled(recipe, counted := data_tokens(recipe, spent, base, train))
    asked = requests.read(given | {"recipe": whole}, charges(spent, pools))
    made = asked.decide()
    from deepcuts.components.plan.rehearsal import rehearse  # torch takes seconds: deepcuts plan does without

    best, money = made.best, made.money
    seconds = money.seconds(best.estimate) if money and best.estimate else 0.0
    settled, said = apply(whole, best, seconds), forecast(spent, whole, counted)
    rehearsed = rehearse(base, settled)
    notes = noted(base, recipe, rehearsed) + foresee(base, candidates, serve_on) + asked.notes
    cli.write_json(decision, as_json(made))
    with files.staged(report) as staging:
        staging.write_text(markdown(made) + f"\n{said}\n" * bool(said) + assumptions(notes))
    cli.write_json(planned, changed(settled if spent.get("select") else apply(recipe, best, seconds)))
    outputs = decisions.outputs(made, asked.task, pools, apply(asked.task.recipe, best), asked.work)
    placing.leave(placed, outputs)
    return facts(made) | rehearsed | expectations(notes, said) | bound(money, settled.budget_seconds)


def apply(recipe: Recipe, best: PlanOption, seconds: float = 0.0) -> Recipe:
    """Return the Recipe with the decision, keeping its ``training_id`` and the smaller of two budgets."""
    bounds = [bound for bound in (recipe.budget_seconds, seconds) if bound]
    return msgspec.structs.replace(
        recipe,
        budget_seconds=min(bounds, default=0.0),
        micro_batch_size=best.micro_batch_size,
        gradient_checkpointing=best.gradient_checkpointing,
        strategy=recipe.strategy if best.strategy == "single" else best.strategy,
    )


def as_json(made: PlanDecision) -> dict[str, Any]:
    """Return a decision as JSON values."""
    scored = {"chosen": made.scoring, "rejected": made.scoring_rejected}
    watched = {"chosen": made.watch, "rejected": made.watch_rejected}
    found: dict[str, Any] = {
        "chosen": named(made.best),
        "rejected": [named(option) for option in made.rejected],
        "scoring": msgspec.to_builtins(scored),
    }
    return found | ({"watch": msgspec.to_builtins(watched)} if made.watch else {})


def named(option: PlanOption) -> dict[str, Any]:
    """Return an option as JSON values, with figures by name."""
    figures = {"memory": option.memory._asdict() | {"total": option.memory.total}}
    estimate = option.estimate._asdict() if option.estimate else None
    return msgspec.structs.asdict(option) | figures | {"estimate": estimate}


def facts(made: PlanDecision) -> Facts:
    """Return the chosen option as facts of the receipt."""
    best, rejected = made.best, len(made.rejected)
    assert best.estimate
    return {
        **Verdict("plan", "applied", f"{best.name}: {best.reason}").facts(),
        "pool": best.pool,
        "scoring_pool": made.scoring.pool,
        "watch_pool": made.watch.pool if made.watch else "",
        "strategy": best.strategy,
        "devices": best.devices,
        "nodes": best.nodes,
        "micro_batch_size": best.micro_batch_size,
        "gradient_checkpointing": bool(best.gradient_checkpointing),
        "predicted_bytes": best.memory.total,
        "predicted_hours_p50": best.estimate.hours_p50,
        "predicted_hours_p90": best.estimate.hours_p90,
        "predicted_usd_p50": best.estimate.usd_p50,
        "predicted_usd_p90": best.estimate.usd_p90,
        "rejected": rejected,
    }


def noted(base: Path, recipe: Recipe, rehearsed: Facts) -> list[str]:
    """Return the plan's assumptions about the base and its training."""
    notes = [*architecture.read(base).tree.notes]
    notes += [UNSHARED] if recipe.share_prefixes != "off" and recipe.packing else []
    return notes + ([f"packing is {rehearsed['packing']}"] if rehearsed else [])


def expectations(notes: Sequence[str], said: str) -> Facts:
    """Return what was taken for granted and what training will see, and print the latter for the command."""
    print(said, file=sys.stderr, flush=True)  # the last line, which it shows
    return {"assumed": "; ".join(notes) or "nothing", "forecast": said}


def assumptions(notes: Sequence[str]) -> str:
    """Format the plan's assumptions about this type of model for its report."""
    return "".join(f"\n- Assumed: {note}." for note in notes) + "\n" * bool(notes)


def bound(money: Budget | None, seconds: float) -> Facts:
    """Return the facts of the budget; empty without one."""
    if not money:
        return {}
    return {
        "budget_usd": money.usd,
        "spent_before_usd": money.spent_usd,
        "reserved_usd": money.reserved_usd,
        "budget_seconds": seconds,
    }


if __name__ == "__main__":
    cli.main(plan)
