"""Commands to use before paying: compile, plan, doctor."""

import enum
import os
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from deepcuts.components.core import clock
from deepcuts.components.plan.report import markdown
from deepcuts.components.plan.step import Objective
from deepcuts.components.plan.step import as_json as plan_json
from deepcuts.pipelines import pools
from deepcuts.pipelines.command import compiled_plan, packages, whole_plan
from deepcuts.pipelines.command import doctor as medicine
from deepcuts.pipelines.command.conclusion import pools_of
from deepcuts.pipelines.command.options import AsJson, File, Namespace, Sets, out, print_json
from deepcuts.pipelines.command.whole_plan import WholePlan
from deepcuts.pipelines.placement import Size
from deepcuts.pipelines.run_file import places, settings
from deepcuts.pipelines.runner import pipeline_spec


class Target(enum.StrEnum):
    kfp = "kfp"
    job = "job"


JOB_ONLY = ("title", "pool", "cpu", "memory", "max_hours", "cron")
"""Options only for a Job, as a pipeline's tasks are placed and sized by the recipe and by plan."""
CONDITIONAL = ", if the run decides so"


def compile_pipeline(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A pipeline; with --to job a component.", show_default=False)
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: NAME.yaml.")] = None,
    to: Annotated[Target, typer.Option(help="For Kubeflow Pipelines, or for kubectl alone.")] = Target.kfp,
    file: File = None,
    sets: Sets = [],  # noqa: B006
    title: Annotated[str, typer.Option("--name", help="Name of the Job; default: NAME.")] = "",
    pool: Annotated[str, typer.Option(help="Node pool of the Job.")] = "cpu",
    cpu: Annotated[float, typer.Option(help="Cores of the Job.")] = 2,
    memory: Annotated[str, typer.Option(help="Memory of the Job.")] = "8Gi",
    max_hours: Annotated[float, typer.Option(help="Deadline of a pod of the Job.")] = 24,
    cron: Annotated[str, typer.Option(help="Make it a CronJob, UTC: minute hour day month weekday.")] = "",
) -> None:
    """Write one YAML that Kubeflow Pipelines accepts (UI, or kfp run create), or one component as a Job."""
    if to is Target.job:
        from deepcuts.pipelines.kubeflow import cron as schedule
        from deepcuts.pipelines.kubeflow import jobs

        path = output or Path(f"{name}-job.yaml")
        given, problems = settings.given(file, sets)
        problems += settings.lines_of(pools.named, pool)
        problems += settings.lines_of(schedule.check, cron) if cron else []
        title, size, known = title or name.replace("_", "-"), Size(cpu, memory, max_hours), pools.read()
        placed = known.get(pool) or next(iter(known.values()))  # so that the step's errors are shown, too
        job = settings.tried(problems, {}, jobs.manifest, name, title, given, placed, size)
        settings.refuse(problems)
        jobs.write(jobs.repeated(job, cron) if cron else job, path)
        out.print(f"kubectl create -f {path}", highlight=False, soft_wrap=True)
        return
    path = output or Path(f"{name}.yaml")
    given, problems = settings.given(file, sets)
    problems += settings.lines_of(_refuse_job_options, context)
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "pipeline.yaml"
        settings.partial(packages.checked(name, package, problems), given, problems)
        given.pop(settings.CONFIRM, None)  # compiling spends nothing
        given = places.pinned(given, None, out.note)  # the compiled file is the record
        if given or name not in packages.names():  # again, with these as its defaults; not a compiled file
            packages.compile_to(name, path, given)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(package, path)
    rows = Table("task", "pool", "image")
    for _, leaf in pipeline_spec.leaves(pipeline_spec.read(path)):
        image = leaf.executor.container.image if leaf.executor.container else "–"
        rows.add_row(leaf.task.task_info.get("name", ""), pipeline_spec.pool(leaf.placement), image)
    out.print(rows)
    out.print(
        f"{path}: images from DEEPCUTS_REGISTRY and DEEPCUTS_TAG, pools from nodepools.yaml", highlight=False
    )


def _refuse_job_options(context: typer.Context) -> None:
    """Raise ValueError if an option only for a Job was given, as no option is ignored."""
    sources = {option: context.get_parameter_source(option) for option in JOB_ONLY}
    given = [option for option, source in sources.items() if source and source.name == "COMMANDLINE"]
    if given:
        flags = ", ".join(
            f"--{'name' if option == 'title' else option.replace('_', '-')}" for option in given
        )
        raise ValueError(f"{flags}: only with --to job: a pipeline's tasks are placed by it and by plan")


def plan(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A pipeline, or a compiled YAML.")] = "finetune",
    file: File = None,
    sets: Sets = [],  # noqa: B006
    deadline_hours: Annotated[
        float | None, typer.Option(min=0, help="Limit for p90; default: the run file's.")
    ] = None,
    objective: Annotated[
        Objective | None,
        typer.Option(help="What to optimize; a run is planned as cheapest.", show_default=False),
    ] = None,
    answer_share: Annotated[
        float | None,
        typer.Option(
            min=0.001, max=1, help="Share of the tokens that carry loss; a run takes 1.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show where a pipeline's tasks run, how long they take and what they cost; runs nothing."""
    given, problems = settings.given(file, sets)
    pipeline = packages.read(name, problems)
    if not compiled_plan.is_planned(pipeline):
        problems.append(f"{name}: no training to plan: plan finetune")
    problems += [
        f"{model}: missing: give -f run.yaml, or --set {model}=FOLDER"
        for model in compiled_plan.models(pipeline)
        if not given.get(model)
    ]
    settings.partial(pipeline, given, problems)
    whole = whole_plan.make(
        pipeline,
        given,
        pools_of(given),
        deadline_hours=deadline_hours,
        objective=objective,
        answer_share=answer_share,
    )
    if as_json:
        print_json(plan_json(whole.decision) | whole_plan.as_json(whole))
        return
    out.print(Markdown(markdown(whole.decision), hyperlinks=False))
    if whole.length:
        out.print(f"Training: {whole.length}.", highlight=False)
    out.print(_pools_table(whole), _tasks_table(whole))


def _pools_table(whole: WholePlan) -> Table:
    rows = Table("pool", "best way to train there", "hours", "$", "", title="What each pool would cost")
    for row in whole.pools:
        figures = _range(row.hours_p50, row.hours_p90), _range(row.usd_p50, row.usd_p90)
        rows.add_row(row.pool, row.way, *figures, "CHOSEN" if row.chosen else row.reason)
    return rows


def _tasks_table(whole: WholePlan) -> Table:
    rows = Table("task", "pool", "hours", "$", "of", title="The pipeline, p50 to p90")
    for row in whole.tasks:
        figures = _range(row.hours_p50, row.hours_p90), _range(row.usd_p50, row.usd_p90)
        rows.add_row(row.task, row.pool, *figures, f"{row.of}{CONDITIONAL * row.conditional}")
    least = "at least " * whole.at_least
    hours = f"{least}{_range(*whole.node_hours)}"
    rows.add_row("total", "", hours, f"{least}{_range(*whole.usd)}", "node hours, dollars", style="bold")
    if any(row.conditional for row in whole.tasks):
        sure = f"{least}{_range(*whole.usd_unconditional)}"
        rows.add_row("of it in any case", "", "", sure, "", style="bold")
    return rows


def _range(low: float | None, high: float | None) -> str:
    return "unknown" if low is None or high is None else f"{low:.3g} to {high:.3g}"


def doctor(namespace: Namespace = "kubeflow", as_json: AsJson = False) -> None:
    """Check Python, packages, store, devices, prices, cluster; every problem with its fix."""
    from deepcuts.pipelines.command import checkup  # takes half a second to import

    rows = Table("", "what", "found", "fix")
    for column in rows.columns:
        column.overflow = "fold"  # a command cut off by an ellipsis cannot be copied
    findings = medicine.examine(pools.read(), os.environ, clock.local().date())
    findings += checkup.examine(pools.read(), namespace)
    code = 2 if any(finding.missing for finding in findings) else 0
    if as_json:
        print_json([finding._asdict() for finding in findings])
        raise typer.Exit(code)
    for finding in findings:
        mark = (
            Text("missing", "red")
            if finding.missing
            else Text("look", "yellow")
            if finding.fix
            else Text("ok", "green")
        )
        rows.add_row(mark, finding.subject, Text(finding.state), Text(finding.fix))
    out.print(rows)
    raise typer.Exit(code)
