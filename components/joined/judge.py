"""A model scored and judged in one task; see ``prepare.py`` for why."""

from types import SimpleNamespace
from typing import Any

from kfp import dsl

from components.core.container import chain, container


def _evaluate(name: str, given: Any, base: Any, model: str, split: Any, scorecard: Any) -> dsl.ContainerSpec:
    """Return the part ``name`` that scores ``model``; ``given`` are the parameters of the whole component."""
    return container(
        "components.evaluate.step",
        image="train",
        receipt=f"{given.receipt.path}_{name}",
        base=base.path,
        model=model,
        split=split.path,
        labels=given.labels.path,
        scorecard=scorecard.path,
        store=given.store,
        measures=given.measures,
        max_examples=given.max_examples,
        max_new_tokens=given.max_new_tokens,
        seed=given.seed,
    )


def _accept(
    name: str,
    given: Any,
    *,
    candidate_model: str,
    reference_model: str,
    candidate: str,
    reference: str,
    margin: Any,
    **outputs: str,
) -> dsl.ContainerSpec:
    """Return the part ``name`` that judges a candidate by the answer loss; ``given`` as in ``_evaluate``."""
    return container(
        "components.accept.step",
        image="train",
        receipt=f"{given.receipt.path}_{name}",
        candidate_model=candidate_model,
        reference_model=reference_model,
        candidate=candidate,
        reference=reference,
        metric="answer_loss",
        margin=margin,
        **outputs,
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
    max_new_tokens: int,
    margin_nats: float,
    seed: int,
):
    """Score a model made of ``base``; pass it on only if it is no worse than ``base`` by the margin."""
    given = SimpleNamespace(**locals())
    return chain(
        "train",
        receipt,
        evaluate_after=_evaluate("evaluate_after", given, base, model.path, split, candidate),
        accept=_accept(
            "accept",
            given,
            candidate_model=model.path,
            reference_model=base.path,
            candidate=candidate.path,
            reference=reference.path,
            margin=margin_nats,
            accepted=accepted.path,
            scorecard=scorecard.path,
            verdict=verdict.path,
        ),
    )


@dsl.container_component
def quantize_and_accept(
    base: dsl.Input[dsl.Model],
    model: dsl.Input[dsl.Model],
    reference: dsl.Input[dsl.Artifact],
    text: dsl.Input[dsl.Dataset],
    valid: dsl.Input[dsl.Dataset],
    test: dsl.Input[dsl.Dataset],
    labels: dsl.Input[dsl.Dataset],
    candidate: dsl.Output[dsl.Artifact],
    accepted: dsl.Output[dsl.Model],
    formats: dsl.Output[dsl.Markdown],
    verdict: dsl.Output[dsl.Markdown],
    receipt: dsl.Output[dsl.Metrics],
    store: str,
    candidates: list,
    objective: str,
    margin_nats: float,
    group_size: int,
    calibration_tokens: int,
    measures: list,
    max_examples: int,
    max_new_tokens: int,
    seed: int,
):
    """Store a model in the cheapest format that keeps its quality, judged on unseen examples."""
    given, chosen = SimpleNamespace(**locals()), f"{receipt.path}.chosen"
    return chain(
        "train",
        receipt,
        quantize=container(
            "components.quantize.step",
            image="train",
            receipt=f"{receipt.path}_quantize",
            base=base.path,
            model=model.path,
            text=text.path,
            split=valid.path,
            chosen=chosen,
            summary=formats.path,
            candidates=candidates,
            objective=objective,
            margin_nats=margin_nats,
            group_size=group_size,
            calibration_tokens=calibration_tokens,
            max_examples=max_examples,
            seed=seed,
        ),
        evaluate_served=_evaluate("evaluate_served", given, base, chosen, test, candidate),
        accept_served=_accept(
            "accept_served",
            given,
            candidate_model=chosen,
            reference_model=model.path,
            candidate=candidate.path,
            reference=reference.path,
            margin=margin_nats,
            accepted=accepted.path,
            scorecard=f"{receipt.path}.scorecard",
            verdict=verdict.path,
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
    max_new_tokens: int,
    gain_nats: float,
    margin_nats: float,
    seed: int,
):
    """Pass the student on if it beats its control by ``gain_nats`` and holds against the teacher.

    The better of student and control is judged against the teacher by the scores it already has.
    """
    given = SimpleNamespace(**locals())
    best, unused = f"{receipt.path}.best", f"{receipt.path}.scorecard"
    return chain(
        "train",
        receipt,
        evaluate_control=_evaluate("evaluate_control", given, teacher, control.path, split, of_control),
        accept_over_control=_accept(
            "accept_over_control",
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
            "accept",
            given,
            candidate_model=best,
            reference_model=teacher.path,
            candidate=of_best.path,
            reference=of_teacher.path,
            margin=margin_nats,
            accepted=accepted.path,
            scorecard=unused,
            verdict=verdict.path,
        ),
    )
