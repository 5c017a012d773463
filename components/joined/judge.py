"""A model scored and judged in one task, and made cheaper to serve; see ``prepare.py`` for why."""

from typing import Any

from kfp import dsl

from components.core.container import Part, chain, part


def _scoring(
    split: Any,
    labels: Any,
    store: object,
    measures: object,
    max_examples: object,
    max_new_tokens: object,
    seed: object,
) -> dict[str, object]:
    """Return the flags that every evaluation of a task shares."""
    return {
        "split": split.path,
        "labels": labels.path,
        "store": store,
        "measures": measures,
        "max_examples": max_examples,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
    }


def _evaluate(base: str, model: str, scorecard: str, scoring: dict[str, object]) -> Part:
    return part(
        "components.evaluate.step",
        base=base,
        model=model,
        scorecard=scorecard,
        **scoring,
    )


def _accept(**flags: object) -> Part:
    return part(
        "components.accept.step",
        metric="answer_loss",
        **flags,
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
    scoring = _scoring(split, labels, store, measures, max_examples, max_new_tokens, seed)
    return chain(
        "train",
        receipt,
        evaluate_after=_evaluate(base.path, model.path, candidate.path, scoring),
        accept=_accept(
            candidate_model=model.path,
            reference_model=base.path,
            candidate=candidate.path,
            reference=reference.path,
            margin=margin_nats,
            accepted=accepted.path,
            scorecard=scorecard.path,
            verdict=verdict.path,
            seed=seed,
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
    candidates: list,
    objective: str,
    group_size: int,
    calibration_tokens: int,
    measures: list,
    max_examples: int,
    max_new_tokens: int,
    margin_nats: float,
    seed: int,
):
    """Judge a model made of ``base``, then what it is in the cheapest format that keeps its quality.

    The format is chosen on ``valid`` and judged on ``split``, against what the first gate passed on.
    """
    scoring = _scoring(split, labels, store, measures, max_examples, max_new_tokens, seed)
    whole, chosen, unused = f"{receipt.path}.whole", f"{receipt.path}.chosen", f"{receipt.path}.scorecard"
    return chain(
        "train",
        receipt,
        evaluate_after=_evaluate(base.path, model.path, candidate.path, scoring),
        accept=_accept(
            candidate_model=model.path,
            reference_model=base.path,
            candidate=candidate.path,
            reference=reference.path,
            margin=margin_nats,
            accepted=whole,
            scorecard=scorecard.path,
            verdict=verdict.path,
            seed=seed,
        ),
        quantize=part(
            "components.quantize.step",
            base=base.path,
            model=whole,
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
        evaluate_served=_evaluate(base.path, chosen, served.path, scoring),
        accept_served=_accept(
            candidate_model=chosen,
            reference_model=whole,
            candidate=served.path,
            reference=scorecard.path,
            margin=margin_nats,
            accepted=accepted.path,
            scorecard=unused,
            verdict=served_verdict.path,
            seed=seed,
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
    scoring = _scoring(split, labels, store, measures, max_examples, max_new_tokens, seed)
    best, unused = f"{receipt.path}.best", f"{receipt.path}.scorecard"
    return chain(
        "train",
        receipt,
        evaluate_control=_evaluate(teacher.path, control.path, of_control.path, scoring),
        accept_over_control=_accept(
            candidate_model=student.path,
            reference_model=control.path,
            candidate=of_student.path,
            reference=of_control.path,
            margin=gain_nats,
            accepted=best,
            scorecard=of_best.path,
            verdict=over_control.path,
            seed=seed,
        ),
        accept=_accept(
            candidate_model=best,
            reference_model=teacher.path,
            candidate=of_best.path,
            reference=of_teacher.path,
            margin=margin_nats,
            accepted=accepted.path,
            scorecard=unused,
            verdict=verdict.path,
            seed=seed,
        ),
    )
