"""Plan: where a Recipe runs, split how, at what price; before anything is bought (cuts 4 and 10)."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from deepcuts.components.core import cli, files, run_records
from deepcuts.components.core.bounds import NonNegative, PositiveShare, ShareBelowOne
from deepcuts.components.core.nodepools import NodePool, NodePools
from deepcuts.components.core.receipts import Facts
from deepcuts.components.core.recipe import Recipe, changed
from deepcuts.components.core.verdicts import Verdict
from deepcuts.components.ledger.charges import charges, read_receipts
from deepcuts.components.plan import architecture, choice, placing
from deepcuts.components.plan.architecture import Architecture
from deepcuts.components.plan.budget import Budget, budget
from deepcuts.components.plan.choice import Measurement, PlanOption, PlanTask
from deepcuts.components.plan.forecast import forecast
from deepcuts.components.plan.placing import Spot, Wish
from deepcuts.components.plan.report import markdown
from deepcuts.components.quantize.served import foresee

UNSHARED = (
    "hours are of every token: a beginning that examples share is computed once in training, which takes less"
)
Objective = Literal["cheapest", "fastest"]
ANYWHERE = Wish()


def plan(
    base: Path,
    receipts: dict[str, Path],
    run: str,
    recipe: Recipe,
    nodepools: NodePools,
    deadline_hours: NonNegative,
    budget_usd: NonNegative,
    reserve_share: ShareBelowOne,
    objective: Objective,
    answer_share: PositiveShare,
    pool: str,
    spot: Spot,
    queue: str,
    watcher: str,
    serve_on: str,
    candidates: list[str],
    calibrate: Measurement,
    decision: Path,
    report: Path,
    planned: Path,
    placed: dict[str, Path],
) -> Facts:
    """Choose a pool, a strategy, a micro-batch and checkpointing for training ``base`` as ``recipe`` says.

    ``pool`` is where training has to run; ``auto`` leaves the choice among pools of the Kueue ``queue`` that
    its pods are labelled for, ``spot`` ones where they are ``allowed``. ``base`` is saved, merged and loaded
    again first; formats of ``candidates`` (or of ``serve_on``) that it cannot have are noted.
    ``deadline_hours`` (0: none) is held by the p90. ``answer_share`` 1 is the safe bound of tokens with loss.

    ``budget_usd`` (0: none) is held by the p50 now and by the run later. Of it goes what was spent before:
    the charges of ``receipts``, and of the earlier tasks of ``run`` (URI of an artifact of this task).
    ``reserve_share`` is kept for what comes after. The rest pays the pool, and that of the ``watcher``, for
    ``budget_seconds`` of the recipe that is handed on.

    Writes the ``decision`` with every rejected alternative (JSON), the ``report`` (Markdown), the recipe as
    ``planned``, with what was decided, and to the files of ``placed`` what pods ask for.

    Raises:
        DataError: the base cannot be saved and loaded again, or is quantized.
        ValueError: nothing fits, is in time or can be paid; the base cannot have a format that is named.
    """
    pools, wish = nodepools.by_name, Wish(pool, spot, queue, watcher)
    spent = {task: read_receipts(path) for task, path in receipts.items()}
    spent |= run_records.read(run).receipts if run else {}
    money = budget(budget_usd, reserve_share, charges(spent, pools), watcher, pools)
    asked_for = deadline_hours, objective, answer_share, calibrate, wish, money
    best, rejected = decide(base, recipe, pools, *asked_for)
    from deepcuts.components.plan.rehearsal import rehearse  # torch takes seconds: deepcuts plan does without

    handed_on = apply(recipe, best, money.seconds(best.estimate) if money and best.estimate else 0.0)
    rehearsed = rehearse(base, handed_on)
    notes = noted(base, recipe, rehearsed) + foresee(base, candidates, serve_on)
    cli.write_json(decision, as_json(best, rejected))
    with files.staged(report) as staging:
        staging.write_text(markdown(best, rejected, money) + assumptions(notes))
    cli.write_json(planned, changed(handed_on))
    placing.leave(placed, asked(best, pools, wish, architecture.read(base), handed_on, answer_share))
    assumed: Facts = {"assumed": "; ".join(notes) or "nothing", "forecast": forecast(spent, handed_on)}
    print(assumed["forecast"], file=sys.stderr, flush=True)  # the last line, which the command shows
    return facts(best, len(rejected)) | rehearsed | assumed | bound(money, handed_on.budget_seconds)


def decide(
    base: Path,
    recipe: Recipe,
    pools: Mapping[str, NodePool],
    deadline_hours: float,
    objective: str,
    answer_share: float,
    calibrate: Measurement,
    wish: Wish = ANYWHERE,
    money: Budget | None = None,
) -> tuple[PlanOption, list[PlanOption]]:
    """Return (what to run, what was rejected); raises as ``plan``."""
    barred = placing.barred(pools, wish)
    shapes = architecture.read(base)
    if recipe.seq_len > shapes.tree.context:
        raise ValueError(
            f"recipe.seq_len {recipe.seq_len} is above the model's context {shapes.tree.context}: lower it"
        )
    task = PlanTask(shapes, recipe, answer_share, watcher=pools.get(wish.watcher))
    task = choice.calibrated(task, pools, calibrate)
    found = choice.options(task, pools)
    try:
        return choice.choose(found, deadline_hours, objective, barred, money)
    except ValueError as error:
        if all(option.missing_bytes for option in found):
            raise ValueError(f"{error}: {choice.nearest_change(task, pools)}") from error
        raise


def apply(recipe: Recipe, best: PlanOption, seconds: float = 0.0) -> Recipe:
    """Return the Recipe with what was decided; its ``training_id`` stays. The smaller bound holds."""
    bounds = [bound for bound in (recipe.budget_seconds, seconds) if bound]
    return msgspec.structs.replace(
        recipe,
        budget_seconds=min(bounds, default=0.0),
        micro_batch_size=best.micro_batch_size,
        gradient_checkpointing=best.gradient_checkpointing,
        strategy=recipe.strategy if best.strategy == "single" else best.strategy,
    )


def as_json(best: PlanOption, rejected: Sequence[PlanOption]) -> dict[str, Any]:
    """Return a decision for JSON."""
    return {"chosen": named(best), "rejected": [named(option) for option in rejected]}


def named(option: PlanOption) -> dict[str, Any]:
    """Return an Option for JSON, its figures by name."""
    figures = {"memory": option.memory._asdict() | {"total": option.memory.total}}
    estimate = option.estimate._asdict() if option.estimate else None
    return msgspec.structs.asdict(option) | figures | {"estimate": estimate}


def facts(best: PlanOption, rejected: int) -> Facts:
    """Return the chosen option as facts of the receipt."""
    assert best.estimate
    return {
        **Verdict("plan", "applied", f"{best.name}: {best.reason}").facts(),
        "pool": best.pool,
        "strategy": best.strategy,
        "devices": best.devices,
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
    """Return what the plan takes for granted of the base and its training."""
    notes = [*architecture.read(base).tree.notes]
    notes += [UNSHARED] if recipe.share_prefixes != "off" and recipe.packing else []
    return notes + ([f"packing is {rehearsed['packing']}"] if rehearsed else [])


def asked(
    best: PlanOption,
    pools: Mapping[str, NodePool],
    wish: Wish,
    shapes: Architecture,
    recipe: Recipe,
    answer_share: float,
) -> dict[str, Any]:
    """Return what the pods for training and for scoring request, by output parameter."""
    pool, watcher = pools[best.pool], pools.get(wish.watcher)
    return placing.outputs(pool, watcher, best.devices, best.memory, shapes, recipe, answer_share)


def assumptions(notes: Sequence[str]) -> str:
    """Return what the plan took for granted of this type of model, for its report."""
    return "".join(f"\n- Assumed: {note}." for note in notes) + "\n" * bool(notes)


def bound(money: Budget | None, seconds: float) -> Facts:
    """Return what the budget allows; nothing without one."""
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
