"""TRL's SFTTrainer against the arms of a study: its data, tokens and scored examples; resumable.

    python -m tests.benchmarks.against_trl pipelines/studies/real.yaml --runs runs --base SMOLLM2

After ``deepcuts ablate`` of that study with ``--runs runs``: the data are those of its newest run. All
weights and an adapter (``--methods``), each at three rates with the first seed and at the best of them with
the others; one thread. A batch holds about the examples of a step, padded to its longest, as packing needs
FlashAttention; drawn at random, or of like length where that is cheaper. Its runs are lines of
``RUNS/STUDY/trl.jsonl``, not run again. Prints what TRL and each arm cost in CPU seconds of training.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from deepcuts.components.core import examples, scorecards
from deepcuts.components.core import recipe as recipes
from deepcuts.components.core.progress import tell
from deepcuts.components.evaluate.step import evaluate
from deepcuts.components.training import models, scoring
from deepcuts.pipelines.runner import run_record
from deepcuts.pipelines.studies import ablation_report, kept_results, savings, study_spec
from deepcuts.pipelines.studies.savings import RunCost, TrialResult
from deepcuts.pipelines.studies.study_spec import Study, StudyTrial
from tests.benchmarks import throughput

RATES = {"full": (8e-4, 4e-4, 1.6e-3), "lora": (2e-3, 1e-3, 4e-3)}
"""The study's own rate and those on either side of it."""
SAMPLERS = ("random", "group_by_length")
"""transformers' ``train_sampling_strategy``."""
HEAD = [
    "arm",
    "seeds",
    "loss (range)",
    "label accuracy",
    "CPU s",
    "of TRL's",
    "with searches",
    "worse than TRL by",
]


class PeerRun(NamedTuple):
    """One run of TRL."""

    method: str
    learning_rate: float
    sampler: str

    @property
    def name(self) -> str:
        return f"trl-{self.method}-{self.learning_rate:g}-{self.sampler}"


class PeerStudy:
    """TRL's runs in the folder of a study."""

    def __init__(self, study: Study, folder: Path, base: Path) -> None:
        self.study, self._base, self._file = study, base, folder / "trl.jsonl"
        self._kept = kept_results.read(self._file)
        records = sorted(folder.glob("*/run.json"), key=lambda path: path.stat().st_mtime)
        made = [run_record.read(path.parent).tasks.get("prepare") for path in records]
        done = [task for task in made if task and task.status == "done"]
        if not done:
            raise SystemExit(f"{folder} has no prepared data: run deepcuts ablate of this study first")
        self._data = {name: Path(done[-1].artifacts[name]) for name in ("train", "test", "labels")}

    def run(self, which: PeerRun, seed: int) -> TrialResult:
        """Train and score once; what is in the file is not run again."""
        trial = StudyTrial(which.name, self.study.budgets[-1], seed)
        if trial.folder not in self._kept:
            found = self._kept[trial.folder] = self._trained(which, trial)
            kept_results.write(self._file, self._kept)
            seconds, tokens = found.cost.train_cpu_seconds, found.cost.trained_tokens
            tell(f"{trial.folder}: {found.loss:.3f} nats, {seconds:.0f} CPU s, {tokens} tokens")
        return self._kept[trial.folder]

    def searched(self, method: str) -> tuple[PeerRun, list[TrialResult]]:
        """Find rate and sampler with the first seed; returns the best and the other runs.

        The best is the cheapest of those within the study's margin of the lowest loss.
        """
        seed = self.study.seeds[0]
        tried = {
            which: self.run(which, seed) for which in (PeerRun(method, r, SAMPLERS[0]) for r in RATES[method])
        }
        alike = min(tried, key=lambda which: tried[which].loss)._replace(sampler=SAMPLERS[1])
        tried[alike] = self.run(alike, seed)
        enough = min(result.loss for result in tried.values()) + self.study.margin_nats
        good = [which for which, result in tried.items() if result.loss <= enough]
        best = min(good, key=lambda which: tried[which].cost.train_cpu_seconds)
        return best, [result for which, result in tried.items() if which != best]

    def _trained(self, which: PeerRun, trial: StudyTrial) -> TrialResult:
        shared: dict[str, Any] = self.study.set["recipe"]
        recipe = recipes.parse(
            shared
            | {"method": which.method, "learning_rate": which.learning_rate, "seed": trial.seed}
            | {"budget_tokens": trial.budget_tokens}
        )
        _, tokenizer = models.load_base(self._base)
        data = scoring.render_all(examples.read(self._data["train"]), tokenizer)
        trainer, took = throughput.trained_by(
            "trl", self._base, data, recipe, "cpu", train_sampling_strategy=which.sampler
        )
        with tempfile.TemporaryDirectory() as scratch:
            place = Path(scratch)
            stored = models.stored_dtype(self._base)
            models.save(trainer.model, tokenizer, self._base, place / "model", stored)
            evaluate(
                base=self._base,
                model=place / "model",
                split=self._data["test"],
                labels=self._data["labels"],
                scorecard=place / "card",
                store=(place / "store").as_uri(),
                measures=self.study.set.get("measures", []),
                max_examples=self.study.set["max_examples"],
                max_new_tokens=1,
                seed=0,  # as the study's judge draws them
            )
            card, scores = scorecards.read(place / "card"), scorecards.read_scores(place / "card")
        cpu_seconds, seconds = map(float, took)
        tokens = int(trainer.state.num_input_tokens_seen)
        cost = RunCost(cpu_seconds, cpu_seconds, seconds, None, tokens, {})
        return TrialResult(trial, card.completion_loss.mean, scores, cost)


def rows(
    study: Study, arms: Sequence[TrialResult], peer: PeerStudy, methods: Sequence[str]
) -> list[list[str]]:
    """Compare each arm of the study, at its largest budget, with TRL's best of each method."""
    found = []
    searches = {name for arm in study.arms for name in arm.search}
    for method in methods:
        best, others = peer.searched(method)
        theirs = [peer.run(best, seed) for seed in study.seeds]
        cost = savings.mean([result.cost for result in theirs]).train_cpu_seconds
        searched = cost + sum(result.cost.train_cpu_seconds for result in others)
        found.append([*described(best.name, theirs), "", "", ""])
        for arm in study.arms:
            budget = max(arm.budgets or study.budgets)
            mine = savings.chosen(arms, arm.name, budget)
            if mine and arm.name not in searches:
                alone = savings.mean([result.cost for result in mine]).train_cpu_seconds
                charged = savings.charged(study, arms, arm.name, budget).train_cpu_seconds
                compared = savings.compare(study, mine, theirs)
                verdict = f"{ablation_report.difference(compared)} {ablation_report.verdict(compared)}"
                ratios = [f"{alone / cost:.2f}", f"{charged / searched:.2f}"]
                found.append([*described(arm.name, mine), *ratios, verdict])
    return found


def described(name: str, runs: Sequence[TrialResult]) -> list[str]:
    """Return name, seeds, mean loss with its range, label accuracy and CPU seconds of some runs."""
    losses = [result.loss for result in runs]
    loss = f"{statistics.fmean(losses):.3f} ({min(losses):.3f} to {max(losses):.3f})"
    cost = savings.mean([result.cost for result in runs])
    return [name, f"{len(runs)}", loss, accuracy(runs), f"{cost.train_cpu_seconds:.0f}"]


def accuracy(runs: Sequence[TrialResult]) -> str:
    """Return the label accuracy over seeds and examples, in per cent; empty if not measured."""
    right = [score.label_correct for run in runs for score in run.scores if score.label_correct is not None]
    return f"{100 * statistics.fmean(right):.1f} %" if right else ""


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("study", type=Path)
    flags.add_argument("--runs", type=lambda text: Path(text).resolve(), default="runs")
    flags.add_argument("--base", type=lambda text: Path(text).resolve(), required=True)
    flags.add_argument("--methods", nargs="+", choices=list(RATES), default=list(RATES))
    given = flags.parse_args()
    torch.set_num_threads(1)
    study = study_spec.read(given.study)
    folder = given.runs / study.name
    peer = PeerStudy(study, folder, given.base)
    arms = list(kept_results.read(folder / kept_results.FILE).values())
    print(ablation_report.table(HEAD, rows(study, arms, peer, given.methods)))


if __name__ == "__main__":
    main()
