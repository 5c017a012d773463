"""Watch one training run: decide what to score next, when to ask for a stop, and when to end."""

import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import torch

from deepcuts.components.core import escape, examples, files, scorecards
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.progress import ProgressLog
from deepcuts.components.core.recipe import Recipe, training_id
from deepcuts.components.core.scorecards import Score
from deepcuts.components.core.store import Torn, open_store
from deepcuts.components.training import adapters, models, sampling, scoring
from deepcuts.components.training.checkpoints import Checkpoints, TrainingProgress, load_weights
from deepcuts.components.training.losses import CompletionLoss
from deepcuts.components.training.run_messages import RunMessages
from deepcuts.components.watch.history import History, Scored, scores_without_gain

LOOKS = 10
"""Number of scorings into which the training's share for scoring is divided."""
Ending = Literal["done", "failed", "stale", "no examples"]


class Watcher:
    """Scores checkpoints and keeps the scores in the store, so that a new Watcher resumes."""

    def __init__(
        self, base: Path, train: Path, valid: Path, store: str, recipe: Recipe, patience: int
    ) -> None:
        objects = open_store(store)
        network, tokenizer = models.load_base(base)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.training_id = training_id(recipe, files.digest(base), files.digest(train))
        self.tokens, self.scoring_seconds = 0, 0.0
        self._messages = RunMessages(objects, self.training_id, recipe.budget_tokens, recipe.budget_seconds)
        self._checkpoints = Checkpoints(objects, self.training_id, recipe.keep_checkpoints)
        self._recipe, self._patience, self._split_digest = recipe, patience, files.digest(valid)
        self._loss = CompletionLoss(adapters.adapt(network, recipe, device)).to(device)
        records = examples.read(valid) if files.size_bytes(valid) else []
        rendered = scoring.render_all(records, tokenizer)
        self._affordable = sampling.affordable_tokens(recipe)
        drawn = sampling.draw(rendered, self._affordable // LOOKS)
        self._records, self._rendered = [records[i] for i in drawn], [rendered[i] for i in drawn]
        self._look_tokens = sum(len(one.ids) for one in self._rendered)
        self.sample = sampling.facts(drawn, len(records))
        self.history = History(
            objects, self.training_id, sampling.key(files.digest(valid), drawn, len(records))
        )
        self._progress = ProgressLog(recipe.budget_tokens, "tokens scored")
        self._lost: set[int] = set()
        """Steps of checkpoints that were deleted, damaged or without finite scores."""
        self.unpaid: set[int] = set()
        """Steps skipped because scoring them would have cost too much."""
        self._beyond: set[int] = set()
        """Steps beyond this budget, from a run with a larger one."""

    @property
    def asked_to_stop(self) -> bool:
        return self._messages.stop() is not None

    def run(self, poll_seconds: float, start_seconds: float, stale_seconds: float) -> Ending:
        """Score new checkpoints until the trainer ends, and then its last one."""
        if not self._records:
            return "no examples"
        pulse = Pulse(self._messages, start_seconds, stale_seconds)
        while True:
            ending = pulse.ending()  # before the list is read, so that the last checkpoint is in it
            step = self.next_step(bool(ending))
            if step is not None:
                self.look_at(step, bool(ending))
            elif ending:
                return ending
            else:
                time.sleep(poll_seconds)

    def next_step(self, last: bool) -> int | None:
        """Return the newest checkpoint if it has not been scored; older ones are not queued.

        The ``last`` one is scored even if it was skipped for its cost.
        """
        newest = max(set(self._checkpoints.steps()) - self._beyond, default=-1)
        passed = self._lost if last else self._lost | self.unpaid
        latest = max({scored.step for scored in self.history.scored} | passed, default=-1)
        return newest if newest > latest else None

    def skipped(self) -> list[int]:
        """Return steps committed within the budget but never scored because of newer ones."""
        heartbeat = self._messages.heartbeat()
        saved = set(heartbeat.saved if heartbeat else []) | set(self._checkpoints.steps())
        return sorted(saved - self._beyond - {scored.step for scored in self.history.scored})

    def is_paid(self, trained_tokens: int, last: bool) -> bool:
        """Tell whether another scoring is within the training's ``scoring_share``.

        During training, within the share of what is trained so far, so that scorings spread over the run, and
        one is reserved for the last checkpoint.
        """
        spent = len(self.history.scored) * self._look_tokens
        if last:
            return not spent or spent + self._look_tokens <= self._affordable
        done = trained_tokens / self._recipe.budget_tokens
        return spent <= done * (self._affordable - 2 * self._look_tokens)

    def look_at(self, step: int, last: bool) -> None:
        """Fetch a checkpoint and score it, or record why not."""
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="watch-") as scratch:
            weights = Path(scratch) / "weights"
            try:
                progress = self._checkpoints.fetch(step, weights)
                if progress.tokens > self._recipe.budget_tokens:
                    self._beyond.add(step)
                    return
                if not self.is_paid(progress.tokens, last):
                    (self._lost if last else self.unpaid).add(step)
                    return
                scored = self.score(progress, weights)
            except (Torn, FileNotFoundError, DataError) as error:  # the trainer has to fail from it, not we
                print(
                    escape.terminal(f"watch: checkpoint {step} passed over: {error}"),
                    file=sys.stderr,
                    flush=True,
                )
                self._lost.add(step)
                return
            self.history.add(scored, weights)
        self.tokens += sum(len(rendered.ids) for rendered in self._rendered)
        self.scoring_seconds += time.monotonic() - began
        print(
            f"step {step}: completion loss {scored.loss:.4f}, best {self.history.best.loss:.4f} at step "
            f"{self.history.best.step}",
            file=sys.stderr,
            flush=True,
        )
        self._progress(scored.tokens)
        if self._patience and scores_without_gain(self.history.scored) >= self._patience:
            best = self.history.best
            self._messages.ask_to_stop(step, scored.tokens, best.step, self.history.best_weights)

    def score(self, progress: TrainingProgress, weights: Path) -> Scored:
        """Score like in-loop evaluation at that step, bit for bit on the same hardware."""
        load_weights(self._loss, weights)
        scored = ProgressLog(len(self._rendered), "examples scored", brief=True).add
        nats = scoring.answer_nats(self._loss, self._rendered, scored)
        lines = [Score(r.id, total, count) for r, (total, count) in zip(self._records, nats, strict=True)]
        card = scorecards.summarise(lines, files.digest(weights), self._split_digest, self._recipe.seed)
        return Scored(progress.step, progress.tokens, card, lines)


OLD_FAILURE_SECONDS = 60.0
"""A trainer starting at the same time clears an earlier attempt's failure within this time. If the failure
stays, the trainer failed before we started."""


class Pulse:
    """Tells whether a trainer is alive, by this machine's clock, as the trainer's may be wrong.

    It has ``start_seconds`` for its first heartbeat, as a node may have to start, and ``stale_seconds`` for
    each later one, as a trainer that died must not hold this node for that long.
    """

    def __init__(self, messages: RunMessages, start_seconds: float, stale_seconds: float) -> None:
        self._messages, self._limit, self._stale_seconds = messages, start_seconds, stale_seconds
        self._failed_before = messages.failed()
        self._last = messages.heartbeat()
        self._began = self._changed_at = time.monotonic()

    def ending(self) -> Ending | None:
        """Return why the trainer will commit nothing more; None while it may."""
        if self._messages.done():
            return "done"
        old = time.monotonic() - self._began < OLD_FAILURE_SECONDS and self._failed_before
        if (failed := self._messages.failed()) and failed != old:
            return "failed"
        if (heartbeat := self._messages.heartbeat()) != self._last:
            self._last, self._changed_at, self._limit = heartbeat, time.monotonic(), self._stale_seconds
        return "stale" if time.monotonic() - self._changed_at > self._limit else None
