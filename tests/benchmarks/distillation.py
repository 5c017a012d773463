"""A student with a teacher against the same student without one, at equal total cost, over several seeds.

    python -m tests.benchmarks.distillation --base MODEL --train EXAMPLES --test EXAMPLES --folder FOLDER

The teacher is the base fine-tuned on the examples; the student is what ``prune`` leaves of it (``--cut``
width or depth), the same for all. With each seed the student is distilled, and its control trained for as
many tokens more as the teacher's seconds would have bought; both are annealed to the end, in one process, one
after the other. What is done stays in the folder: started again after an interruption it goes on. Prints one
JSON line a model and one comparison of student and control, and of both and the teacher, over all seeds and
examples.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import msgspec
import torch

from components.core import cli, scorecards
from components.core.recipe import Recipe
from components.distill.step import distill
from components.evaluate.step import evaluate
from components.finetune.step import finetune
from components.prune.step import prune

MARGIN_NATS = 0.03
LEARNING_RATE = 1e-3


def teacher(folder: Path, given: argparse.Namespace, recipe: Recipe) -> Path:
    """The base fine-tuned, once for all seeds."""
    model = folder / "model"
    if not model.exists():
        store = (folder / "store").as_uri()
        finetune(given.base, given.train, given.test, model, folder / "curve.jsonl", store, recipe)
    scored(folder, given)
    return model


def cut(folder: Path, given: argparse.Namespace, model: Path) -> Path:
    """The teacher pruned, once for all seeds: where students and controls start."""
    pruned = folder / "model"
    if not pruned.exists():
        facts = prune(
            base=model,
            model=model,
            text=given.train,
            pruned=pruned,
            summary=folder / "summary.md",
            method=given.cut,
            amount=given.amount,
            calibration_tokens=8192,
            seed=0,
        )
        print(json.dumps({"cut": facts["cut_prune"]}), flush=True)
    scored(folder, given)
    return pruned


def student(
    folder: Path, given: argparse.Namespace, taught_by: Path, start: Path, recipe: Recipe, **changed: Any
) -> dict[str, Any]:
    """One student's facts; trained and scored unless the folder has it already."""
    path = folder / "facts.json"
    if not path.exists():
        settings: dict[str, Any] = {
            "layers": "all",
            "config": {},
            "method": given.method,
            "temperature": given.temperature,
            "cross_entropy_weight": given.cross_entropy_weight,
            "hidden_weight": given.hidden_weight,
            "cached_draws": given.cached_draws,
            "max_new_tokens": 256,
            "extra_tokens": 0,
        }
        facts = distill(
            teacher=taught_by,
            base=start,
            train=given.train,
            valid=given.test,
            model=folder / "model",
            curve=folder / "curve.jsonl",
            worth_tokens=folder / "worth_tokens",
            store=(folder / "store").as_uri(),
            recipe=recipe,
            **settings | changed,
        )
        cli.write_json(path, facts)
    scored(folder, given)
    done: dict[str, Any] = json.loads(path.read_text())
    return done


def scored(folder: Path, given: argparse.Namespace) -> None:
    """A Scorecard beside the model, unless it is there."""
    labels, card = folder / "labels.json", folder / "scorecard"
    if not card.exists():
        labels.write_text("[]")
        model = folder / "model"
        evaluate(
            base=model,
            model=model,
            split=given.test,
            labels=labels,
            scorecard=card,
            store=(folder / "store").as_uri(),
            measures=["answer_loss"],
            max_examples=given.max_examples,
            max_new_tokens=1,
            seed=0,
        )
    loss = scorecards.read(card).answer_loss
    print(json.dumps({"model": str(folder), "answer_loss": loss.mean}), flush=True)


def compared(candidates: list[Path], references: list[Path]) -> dict[str, Any]:
    """Candidate against reference over all seeds; positive is worse."""
    runs = [
        [scorecards.read_scores(folder / "scorecard") for folder in side] for side in (candidates, references)
    ]
    result = scorecards.compare(*runs, "answer_loss", MARGIN_NATS, 0)
    return dict(msgspec.to_builtins(result))


def compare(given: argparse.Namespace) -> dict[str, Any]:
    """All seeds; the comparison, and what training and serving cost in the mean."""
    torch.set_num_threads(1)
    recipe = Recipe(
        method="full",
        learning_rate=LEARNING_RATE,
        budget_tokens=given.teacher_tokens,
        batch_tokens=4096,
        block_length=512,
        micro_batch_blocks=4,
    )
    taught_by = teacher(given.folder / "teacher", given, recipe)
    start = cut(given.folder / "cut", given, taught_by)
    students, controls, facts = [], [], []
    for seed in range(given.seeds):
        ours, theirs = (given.folder / f"{name}-{seed}" for name in ("student", "control"))
        seeded = msgspec.structs.replace(recipe, seed=seed, budget_tokens=given.budget_tokens)
        found = student(ours, given, taught_by, start, seeded)
        extra = found["worth_tokens"]
        student(theirs, given, taught_by, start, seeded, method="none", extra_tokens=extra)
        students.append(ours)
        controls.append(theirs)
        facts.append(found)
    names = (
        "teacher_seconds",
        "distill_seconds",
        "worth_tokens",
        "teacher_ms_per_token",
        "student_ms_per_token",
    )
    return {
        "student_against_control": compared(students, controls),
        "student_against_teacher": compared(students, [given.folder / "teacher"] * given.seeds),
        "control_against_teacher": compared(controls, [given.folder / "teacher"] * given.seeds),
        "student_bytes": facts[0]["student_bytes"],
        "teacher_bytes": facts[0]["teacher_bytes"],
        **{name: sum(f[name] for f in facts) / len(facts) for name in names},
    }


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "train", "test", "folder"):
        flags.add_argument(f"--{name}", type=lambda text: Path(text).resolve(), required=True)
    flags.add_argument("--cut", choices=("width", "depth"), default="depth")
    flags.add_argument("--amount", type=float, default=0.4)
    flags.add_argument("--seeds", type=int, default=5)
    flags.add_argument("--teacher-tokens", type=int, default=1_050_000)
    flags.add_argument("--budget-tokens", type=int, default=400_000)
    flags.add_argument("--max-examples", type=int, default=10_000)
    flags.add_argument("--method", choices=("forward-kl", "reverse-kl", "sequence"), default="forward-kl")
    flags.add_argument("--temperature", type=float, default=2.0)
    flags.add_argument("--cross-entropy-weight", type=float, default=0.5)
    flags.add_argument("--hidden-weight", type=float, default=0.0)
    flags.add_argument("--cached-draws", type=int, default=0)
    print(json.dumps(compare(flags.parse_args())))


if __name__ == "__main__":
    main()
