from inspect import Parameter, Signature

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.core.container import container


def ledger_of(
    steps: tuple[str, ...],
    scorecards: tuple[str, ...],
    curves: tuple[str, ...],
    plans: tuple[str, ...] = (),
) -> BaseComponent:
    """The ledger component for these names: ``receipt_STEP``, ``scorecard_…``, ``curve_…`` and ``plan_NAME``.

    kfp 2.17 refuses ``[a.outputs["receipt"], b.outputs["receipt"]]`` for ``Input[List[Metrics]]``, so every
    artifact has an input of its own and the signature is made here. They are optional, because only then does
    kfp allow ``ignore_upstream_failure``: the ledger is wanted most when a step has failed.
    """
    kinds = {"nodepools": dict, "margin_nats": float}
    outputs = {"ledger": dsl.Dataset, "summary": dsl.Markdown, "report": dsl.HTML, "receipt": dsl.Metrics}
    kinds |= {name: dsl.Output[kind] for name, kind in outputs.items()}
    optional = {f"receipt_{step}": dsl.Input[dsl.Metrics] for step in steps}
    optional |= {f"scorecard_{name}": dsl.Input[dsl.Artifact] for name in scorecards}
    optional |= {f"curve_{name}": dsl.Input[dsl.Artifact] for name in curves}
    optional |= {f"plan_{name}": dsl.Input[dsl.Artifact] for name in plans}

    def ledger(*values):
        """What a run cost, task by task, beside the quality it bought."""
        given = dict(zip([*kinds, *optional], values, strict=True))

        def named(kind: str, names: tuple[str, ...]) -> dict[str, dsl.Artifact]:
            return {name: given[f"{kind}_{name}"] for name in names}

        return container(
            "components.ledger.step",
            image="ops",
            receipt=given["receipt"],
            receipts=named("receipt", steps),
            scorecards=named("scorecard", scorecards),
            curves=named("curve", curves),
            plans=named("plan", plans),
            nodepools=given["nodepools"],
            margin_nats=given["margin_nats"],
            ledger=given["ledger"].path,
            summary=given["summary"].path,
            report=given["report"].path,
        )

    parameters = [_parameter(name, kind, Parameter.empty) for name, kind in kinds.items()]
    parameters += [_parameter(name, kind, None) for name, kind in optional.items()]
    vars(ledger)["__signature__"] = Signature(parameters)
    return dsl.container_component(ledger)


def _parameter(name: str, kind: object, default: object) -> Parameter:
    return Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, annotation=kind, default=default)
