"""Score and judge a model, and quantize it, in one task; see ``prepare.py`` for why."""

from types import SimpleNamespace
from typing import Any

from kfp import dsl

from deepcuts.components.core.container import ChainedStep, between, chain, part
from deepcuts.components.evaluate.component import MAX_NEW_TOKENS

GROUP_SIZE, CALIBRATION_TOKENS = 32, 8192
"""Columns that share a 4-bit scale, and tokens of text for GPTQ, chosen for small models."""


def _evaluate(given: Any, base: Any, model: str, scorecard: Any) -> ChainedStep:
    """Score ``model``, made from ``base``; ``given`` are the parameters of the whole component."""
    return part(
        "deepcuts.components.evaluate.step",
        base=base.path,
        model=model,
        split=given.split.path,
        labels=given.labels.path,
        scorecard=scorecard.path,
        store=given.store,
        measures=given.measures,
        max_examples=given.max_examples,
        max_new_tokens=f"{MAX_NEW_TOKENS}",
        seed=given.seed,
    )


def _accept(given: Any, **flags: object) -> ChainedStep:
    """Judge a candidate by the completion loss and the run's margin, unless ``flags`` name another."""
    flags = {"margin": given.margin_nats} | flags
    return part("deepcuts.components.accept.step", metric="completion_loss", **flags, seed=given.seed)


def _quantize(given: Any, model: str, chosen: str) -> ChainedStep:
    return part(
        "deepcuts.components.quantize.step",
        base=given.base.path,
        model=model,
        text=given.text.path,
        split=given.valid.path,
        chosen=chosen,
        summary=given.formats.path,
        serve_on=given.serve_on,
        candidates=given.candidates,
        objective=given.objective,
        margin_nats=given.margin_nats,
        group_size=str(GROUP_SIZE),
        calibration_tokens=str(CALIBRATION_TOKENS),
        max_examples=given.max_examples,
        seed=given.seed,
    )


@dsl.container_component
def evaluate_and_accept(
    base: dsl.Input[dsl.Model],
    model: dsl.Input[dsl.Model],
    reference: dsl.Input[dsl.Artifact],
    split: dsl.Input[dsl.Dataset],
    labels: dsl.Input[dsl.Dataset],
    candidate: dsl.Output[dsl.Artifact],
    accepted: dsl.Output[dsl.Model],
    scorecard: dsl.Output[dsl.Artifact],
    verdict: dsl.Output[dsl.Markdown],
    receipt: dsl.Output[dsl.Metrics],
    store: str,
    measures: list,
    max_examples: int,
    margin_nats: float,
    seed: int,
):
    """Score a model made from ``base``; accept it only if it is no worse by the margin."""
    given = SimpleNamespace(**locals())
    return chain(
        "train",
        receipt,
        evaluate_after=_evaluate(given, base, model.path, candidate),
        accept=_accept(
            given,
            candidate_model=model.path,
            reference_model=base.path,
            candidate=candidate.path,
            reference=reference.path,
            accepted=accepted.path,
            scorecard=scorecard.path,
            verdict=verdict.path,
        ),
    )


@dsl.container_component
def accept_and_quantize(
    base: dsl.Input[dsl.Model],
    model: dsl.Input[dsl.Model],
    reference: dsl.Input[dsl.Artifact],
    text: dsl.Input[dsl.Dataset],
    valid: dsl.Input[dsl.Dataset],
    split: dsl.Input[dsl.Dataset],
    labels: dsl.Input[dsl.Dataset],
    candidate: dsl.Output[dsl.Artifact],
    scorecard: dsl.Output[dsl.Artifact],
    verdict: dsl.Output[dsl.Markdown],
    formats: dsl.Output[dsl.Markdown],
    served: dsl.Output[dsl.Artifact],
    served_verdict: dsl.Output[dsl.Markdown],
    accepted: dsl.Output[dsl.Model],
    receipt: dsl.Output[dsl.Metrics],
    store: str,
    serve_on: str,
    candidates: list,
    objective: str,
    measures: list,
    max_examples: int,
    margin_nats: float,
    seed: int,
):
    """Judge a model made from ``base``, then its cheapest format that keeps quality.

    The format is chosen on ``valid`` and judged on ``split``, against the first gate's result.
    """
    given, whole, chosen = SimpleNamespace(**locals()), between("whole"), between("chosen")
    return chain(
        "train",
        receipt,
        evaluate_after=_evaluate(given, base, model.path, candidate),
        accept=_accept(
            given,
            candidate_model=model.path,
            reference_model=base.path,
            candidate=candidate.path,
            reference=reference.path,
            accepted=whole,
            scorecard=scorecard.path,
            verdict=verdict.path,
        ),
        quantize=_quantize(given, whole, chosen),
        evaluate_served=_evaluate(given, base, chosen, served),
        accept_served=_accept(
            given,
            candidate_model=chosen,
            reference_model=whole,
            candidate=served.path,
            reference=scorecard.path,
            accepted=accepted.path,
            scorecard=between("scorecard"),
            verdict=served_verdict.path,
        ),
    )


@dsl.container_component
def choose_student(
    teacher: dsl.Input[dsl.Model],
    student: dsl.Input[dsl.Model],
    control: dsl.Input[dsl.Model],
    of_teacher: dsl.Input[dsl.Artifact],
    of_student: dsl.Input[dsl.Artifact],
    split: dsl.Input[dsl.Dataset],
    labels: dsl.Input[dsl.Dataset],
    of_control: dsl.Output[dsl.Artifact],
    of_best: dsl.Output[dsl.Artifact],
    accepted: dsl.Output[dsl.Model],
    over_control: dsl.Output[dsl.Markdown],
    verdict: dsl.Output[dsl.Markdown],
    receipt: dsl.Output[dsl.Metrics],
    store: str,
    measures: list,
    max_examples: int,
    gain_nats: float,
    margin_nats: float,
    seed: int,
):
    """Accept the student if it beats its control by ``gain_nats`` and holds against the teacher.

    The better of student and control is judged by the scores it already has.
    """
    given, best = SimpleNamespace(**locals()), between("best")
    return chain(
        "train",
        receipt,
        evaluate_control=_evaluate(given, teacher, control.path, of_control),
        accept_over_control=_accept(
            given,
            candidate_model=student.path,
            reference_model=control.path,
            candidate=of_student.path,
            reference=of_control.path,
            margin=gain_nats,
            accepted=best,
            scorecard=of_best.path,
            verdict=over_control.path,
        ),
        accept=_accept(
            given,
            candidate_model=best,
            reference_model=teacher.path,
            candidate=of_best.path,
            reference=of_teacher.path,
            accepted=accepted.path,
            scorecard=between("scorecard"),
            verdict=verdict.path,
        ),
    )
