"""Accept: pass on the cheaper candidate only if it is not worse than the reference by the margin."""

import shutil
from pathlib import Path

from deepcuts.components.core import cli, files, scorecards
from deepcuts.components.core.bounds import Seed
from deepcuts.components.core.markdown import table
from deepcuts.components.core.receipts import Facts
from deepcuts.components.core.scorecards import Comparison, Metric, Score
from deepcuts.components.core.verdicts import Verdict

METRICS: dict[str, Metric] = {name: name for name in scorecards.LOWER_IS_BETTER}
UNITS: dict[Metric, str] = {
    "completion_loss": "nats per answer token",
    "exact_match": "of all answers",
    "label_accuracy": "of all answers",
}


def accept(
    candidate_model: Path,
    reference_model: Path,
    candidate: Path,
    reference: Path,
    metric: str,
    margin: float,
    accepted: Path,
    scorecard: Path,
    verdict: Path,
    seed: Seed,
) -> Facts:
    """Copy ``candidate_model`` to ``accepted`` if non-inferior, else ``reference_model``, with its Scorecard.

    ``candidate`` and ``reference`` are Scorecards, or folders with one Scorecard per seed, paired by name.
    A refusal is not an error: the pipeline keeps the reference, the receipt says ``accepted: false``, and
    ``verdict`` says why.
    """
    candidates, references = zip(*paired_runs(candidate, reference), strict=True)
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r} is not known: give one of {', '.join(METRICS)}")
    compared = scorecards.compare(candidates, references, METRICS[metric], margin, seed)
    forgot = forgetting(candidate, reference, margin, seed)
    passed = compared.non_inferior and (forgot is None or forgot.non_inferior)
    with files.staged(accepted) as staging:
        shutil.copytree(candidate_model if passed else reference_model, staging)
    with files.staged(scorecard) as staging:
        shutil.copytree(candidate if passed else reference, staging)
    with files.staged(verdict) as staging:
        staging.write_text(markdown(compared) + (of_forgetting(forgot) if forgot else ""))
    return describe(compared) | judged(compared, forgot)


def forgetting(candidate: Path, reference: Path, margin: float, seed: int) -> Comparison | None:
    """Compare both on general text, by the same margin; None unless both were scored on it."""
    ours, theirs = scorecard_folders(candidate), scorecard_folders(reference)
    if not all((f / scorecards.GENERAL).exists() for f in (*ours.values(), *theirs.values())):
        return None
    return scorecards.compare(
        [scorecards.read_scores(ours[name], scorecards.GENERAL) for name in ours],
        [scorecards.read_scores(theirs[name], scorecards.GENERAL) for name in ours],
        "completion_loss",
        margin,
        seed,
    )


def judged(compared: Comparison, forgot: Comparison | None) -> Facts:
    """Return the facts of both comparisons together: the verdict, and what was forgotten."""
    failed = next((each for each in (compared, forgot) if each and not each.non_inferior), None)
    on = "On general text: " if failed and failed is forgot else ""
    why = f"{on}{reason(failed or compared)}"
    facts: Facts = {
        "accepted": failed is None,
        **Verdict("candidate", "refused" if failed else "applied", why).facts(),
    }
    if forgot:
        facts |= {"forgot_nats": forgot.worse_by, "forgot_low": forgot.low, "forgot_high": forgot.high}
    return facts


def of_forgetting(forgot: Comparison) -> str:
    """Render the verdict on general text as Markdown."""
    head = "Little was forgotten" if forgot.non_inferior else "Refused for what was forgotten"
    rows = [
        ("general text, nats per token", change(forgot.worse_by)),
        ("90 % interval", f"{forgot.low:+.4f} to {forgot.high:+.4f} (positive is worse)"),
        ("compared on", f"{forgot.examples:,} passages"),
    ]
    return f"""
**{head}.** {reason(forgot)}

{table(("", ""), rows)}
"""


def paired_runs(candidate: Path, reference: Path) -> list[tuple[list[Score], list[Score]]]:
    """Return the scores of candidate and reference, seed by seed.

    Raises:
        ValueError: the names of the Scorecards differ.
        FileNotFoundError: there is no Scorecard.
    """
    ours, theirs = scorecard_folders(candidate), scorecard_folders(reference)
    if ours.keys() != theirs.keys():
        raise ValueError(
            f"candidate has the runs {', '.join(ours)}, reference {', '.join(theirs)}: "
            "give one of each per seed, under the same names"
        )
    return [(scorecards.read_scores(ours[name]), scorecards.read_scores(theirs[name])) for name in ours]


def scorecard_folders(folder: Path) -> dict[str, Path]:
    """Return the Scorecard in ``folder``, or those in its subfolders by name."""
    if folder.joinpath("scores.jsonl").exists():
        return {"one run": folder}
    found = {path.parent.name: path.parent for path in sorted(folder.glob("*/scores.jsonl"))}
    if not found:
        raise FileNotFoundError(f"{folder} has no Scorecard: run evaluate, or check the path")
    return found


def describe(compared: Comparison) -> Facts:
    """Return the comparison as facts of the receipt."""
    return {
        "metric": compared.metric,
        "worse_by": compared.worse_by,
        "worse_by_low": compared.low,
        "worse_by_high": compared.high,
        "margin": compared.margin,
        "examples": compared.examples,
        "seeds": compared.seeds,
        "smallest_gap": scorecards.smallest_gap(compared),
    }


def markdown(compared: Comparison) -> str:
    """Render the verdict as Markdown."""
    unit, gap = UNITS[compared.metric], scorecards.smallest_gap(compared)
    head = "Accepted" if compared.non_inferior else "Refused: the reference is kept"
    seeds = f"{compared.seeds} seeds" if compared.seeds > 1 else "1 seed, without variation between runs"
    rows = [
        ("metric", f"{compared.metric}, {unit}"),
        ("candidate against reference", change(compared.worse_by)),
        ("90 % interval", f"{compared.low:+.4f} to {compared.high:+.4f} (positive is worse)"),
        ("margin", f"{compared.margin:.4f}"),
        ("compared on", f"{compared.examples:,} examples, {seeds}"),
        ("smallest gap it could detect", f"{gap:.4f} (one-sided 5 %, 80 % power)"),
    ]
    return f"""**{head}.** {reason(compared)}

{table(("", ""), rows)}
"""


def reason(compared: Comparison) -> str:
    """Explain why, and what to do, in one or two sentences."""
    if compared.high < 0:
        return "The candidate is better than the reference."
    if compared.non_inferior:
        return "The candidate may be worse, but by less than the margin."
    if compared.low > compared.margin:
        return "The candidate is worse by more than the margin."
    return (
        "Not shown to be no worse: the interval extends beyond the margin. Score more examples, "
        "train more seeds, or use a milder cut."
    )


def change(worse_by: float) -> str:
    """Format a difference, with a word for its direction."""
    return f"{abs(worse_by):.4f} {'worse' if worse_by > 0 else 'better'}" if worse_by else "no difference"


if __name__ == "__main__":
    cli.main(accept)
