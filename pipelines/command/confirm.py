"""Ask for confirmation if a run may cost more than its ``confirm_above_usd``."""

import sys
from collections.abc import Mapping
from typing import Any

import typer

from deepcuts.pipelines.command import compiled_plan, whole_plan
from deepcuts.pipelines.command.conclusion import pools_of
from deepcuts.pipelines.run_file import settings
from deepcuts.pipelines.runner import spec_types


def ask(
    pipeline: spec_types.Pipeline,
    given: Mapping[str, Any],
    arguments: Mapping[str, Any],
    yes: bool,
    *,
    local: bool,
) -> None:
    """Plan the run, ``local`` or on a cluster, if ``given`` has a limit; ask if its p90 is above or unknown.

    Raises:
        ValueError: nobody can answer, or the pipeline cannot be planned.
        typer.Abort: the answer is no.
    """
    limit = settings.confirm_above_usd(given)
    if yes or not limit:
        return
    if not compiled_plan.is_planned(pipeline):
        raise ValueError(
            f"confirm_above_usd {limit:g}: {pipeline.pipeline_info.name} is not planned: pass --yes"
        )
    whole = whole_plan.make(pipeline, arguments, pools_of(arguments), local=local)
    low, high = whole.usd
    if high is not None and high <= limit and not whole.unbounded:
        return
    least = "at least " if whole.at_least else ""
    cost = "an unknown sum" if high is None else f"{least}${low:.3g} (p50) to ${high:.3g} (p90)"
    above = "which may be above" if high is not None and high <= limit else "above"
    words = f"this run may cost {cost}, {above} confirm_above_usd {limit:g}"
    if not sys.stdin.isatty():
        raise ValueError(f"{words}: pass --yes to start it, raise the limit, or look at deepcuts plan")
    typer.confirm(f"{words}. Start it?", abort=True)
