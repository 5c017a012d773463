"""The ``deepcuts`` command: run a pipeline here, compile it for Kubeflow, read what it cost."""

import contextlib
import datetime
import difflib
import enum
import importlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlparse

import msgspec
import typer
import yaml
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from components.core import nodepools, recipe
from components.core.cli import write_json
from components.core.errors import StoreError, exit_code
from components.core.nodepools import NodePool
from components.core.recipe import Recipe
from components.core.scorecards import Interval, Scorecard
from components.core.store import open_store
from components.plan.budget import budget
from components.plan.choice import Measurement
from components.plan.report import markdown
from components.plan.step import Objective, decide
from components.publish import releases
from pipelines.command import chat as talk
from pipelines.command import doctor as medicine
from pipelines.command import progress_table, settings
from pipelines.runner import local, pipeline_spec, placeholders, run_record
from pipelines.runner.run_record import Run
from pipelines.studies import savings, study_spec

HERE = Path(__file__).parents[1]
PARALLEL = max(3, (os.cpu_count() or 1) // 2)
"""At least 3: training, its watcher and the evaluation of the base are ready at once."""
FILLED = {"store_uri": "under --runs", "nodepools": "nodepools.yaml"}
"""Parameters that ``deepcuts run`` fills in where a pipeline takes them."""
ROOT = "minio://mlpipeline/v2/artifacts"
"""KFP 2.17's own pipeline root. An artifact of another bucket or scheme cannot be read by its launcher."""
out = Console()
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A pipeline, or a compiled YAML.")]
File = Annotated[
    Path | None, typer.Option("--file", "-f", help="Parameters as YAML; its paths count from its folder.")
]
Sets = Annotated[list[str], typer.Option("--set", help="A parameter, or a key of one: recipe.seed=3.")]
Folder = Annotated[Path, typer.Option("--runs", help="Where run folders, cache and checkpoints live.")]
Parallel = Annotated[int, typer.Option(min=1, help="Tasks at a time; each gets cores / tasks threads.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Use neither cache nor checkpoints of earlier runs.")]
Until = Annotated[
    list[str],
    typer.Option(
        "--until", metavar="TASK", help="Only what this task needs, and the ledger; may be repeated."
    ),
]
Title = Annotated[str, typer.Option("--name", help="Name of the run's folder; default: pipeline and time.")]
Host = Annotated[
    str,
    typer.Option(
        envvar="KF_PIPELINES_ENDPOINT", help="Kubeflow Pipelines (http://localhost:8080); else kubeconfig."
    ),
]
Namespace = Annotated[str, typer.Option(help="Where Kubeflow Pipelines runs, or your profile.")]
Token = Annotated[str, typer.Option(envvar="DEEPCUTS_TOKEN", help="Bearer token of the server.")]
Cookies = Annotated[
    str, typer.Option(envvar="DEEPCUTS_COOKIES", help="Cookie header, as a login page sets it.")
]
CaCert = Annotated[str, typer.Option(help="Certificate (PEM) that vouches for the server.")]
Experiment = Annotated[str, typer.Option(help="Groups runs in the UI.")]
Root = Annotated[
    str, typer.Option(help="Where artifacts go: the server's pipeline root, or below its bucket.")
]
Releases = Annotated[
    str,
    typer.Option("--store", envvar="DEEPCUTS_STORE", show_default="runs/store", help="Where releases live."),
]
RELEASES = (Path("runs") / "store").resolve().as_uri()
Help = Annotated[bool, typer.Option("--help", help="This text; with NAME also the pipeline's parameters.")]


class Target(enum.StrEnum):
    kfp = "kfp"
    job = "job"


def main() -> None:
    """Entry point: what a user can mend is a message on stderr and an exit code, never a traceback."""
    try:
        app()
    except (ValueError, OSError, StoreError) as error:
        for line in str(error).splitlines():
            print(f"deepcuts: {line}", file=sys.stderr)
        sys.exit(exit_code(error))


@app.command(add_help_option=False)
def run(
    context: typer.Context,
    name: Name = "",
    file: File = None,
    sets: Sets = [],  # noqa: B006  (typer copies it)
    folder: Folder = Path("runs"),
    parallel: Parallel = PARALLEL,
    fresh: Fresh = False,
    until: Until = [],  # noqa: B006
    title: Title = "",
    help: Help = False,
) -> None:
    """Run a pipeline on this machine; running again goes on where the last run stopped."""
    if help or not name:
        out.print(context.get_help(), markup=False, highlight=False, end="")
        out.print(_parameters(_read(name)) if name else f"Pipelines: {', '.join(names())}")
        raise typer.Exit(0 if help else 2)
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "pipeline.yaml"
        _package(name, package)
        pipeline = pipeline_spec.read(package)
        place = folder / title if title else _new(folder, pipeline.pipeline_info.name)
        given = settings.override(settings.read(file) if file else {}, sets)
        fills = _fills((place if fresh else folder) / "store")
        arguments = settings.complete(pipeline, given, fills)
        left = (
            None
            if fresh or title
            else _unfinished(folder, pipeline, pipeline_spec.arguments(pipeline, arguments))
        )
        if left:
            out.print(f"taking up {left}", highlight=False, soft_wrap=True)
        place = left or place
        place.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(package, place / "pipeline.yaml")
    pools = _pools(arguments)
    with progress_table.Board(out, place, pools) as board:
        record = local.run(
            place / "pipeline.yaml",
            arguments,
            place,
            parallel=parallel,
            fresh=fresh,
            cached=folder / "cache",
            show=board,
            until=until,
        )
    _conclude(record, place, pools)
    raise typer.Exit(record.exit_code or 0)


@app.command()
def submit(
    name: Name,
    file: File = None,
    sets: Sets = [],  # noqa: B006
    folder: Folder = Path("runs"),
    title: Title = "",
    host: Host = "",
    namespace: Namespace = "kubeflow",
    token: Token = "",
    cookies: Cookies = "",
    ca_cert: CaCert = "",
    experiment: Experiment = "deepcuts",
    root: Root = ROOT,
) -> None:
    """Run a pipeline on Kubeflow and follow it here; ends with its ledger, as ``run`` does."""
    from pipelines.kubeflow import (
        client,
        run_outputs,  # kfp takes a second, which others do not wait for
    )

    server = client.Server(client.Login(host, namespace, token, cookies, ca_cert))
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "pipeline.yaml"
        arguments = _remote(name, file, sets, root, package)
        record = client.record(package, arguments)
        place = folder / title if title else _new(folder, record.pipeline)
        version = server.upload(package)
        twins = server.twins(version, arguments)
        run_id = server.start(version, place.name, arguments, experiment, root)
        place.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(package, place / "pipeline.yaml")
    out.print(f"{server.page(run_id)} (ends without us if this ends)", highlight=False, soft_wrap=True)
    store = open_store(f"{root}/{record.pipeline}") if os.environ.get("S3_ENDPOINT") else None
    pods = run_outputs.Pods(namespace, run_id)
    pools = _pools(arguments)
    with progress_table.Board(out, place, pools) as board:
        client.follow(
            server, run_id, record, place, run_outputs.Harvest(store, [run_id, *twins], pods), board
        )
    _conclude(record, place, pools)
    if not store:
        out.print("S3_ENDPOINT is not set: receipts and ledger stay in the Kubeflow UI", highlight=False)
    raise typer.Exit(record.exit_code or 0)


@app.command()
def schedule(
    name: Name,
    cron: Annotated[str, typer.Option(help="When, UTC: minute hour day month weekday.", show_default=False)],
    file: File = None,
    sets: Sets = [],  # noqa: B006
    title: Annotated[str, typer.Option("--name", help="Of the schedule; one of that name is replaced.")] = "",
    host: Host = "",
    namespace: Namespace = "kubeflow",
    token: Token = "",
    cookies: Cookies = "",
    ca_cert: CaCert = "",
    experiment: Experiment = "deepcuts",
    root: Root = ROOT,
) -> None:
    """Run a pipeline on Kubeflow again and again: one run at a time, missed times are not made up."""
    from pipelines.kubeflow import client

    when = client.six_fields(cron)
    server = client.Server(client.Login(host, namespace, token, cookies, ca_cert))
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "pipeline.yaml"
        arguments = _remote(name, file, sets, root, package)
        title = title or pipeline_spec.read(package).pipeline_info.name
        version = server.upload(package)
        replaced = server.schedule(version, title, arguments, experiment, root, when)
    note = f", instead of {len(replaced)} of that name" if replaced else ""
    out.print(f"schedule {title}: {when} (second first, UTC){note}", highlight=False)


@app.command("runs")
def list_runs(
    host: Host = "",
    namespace: Namespace = "kubeflow",
    token: Token = "",
    cookies: Cookies = "",
    ca_cert: CaCert = "",
    experiment: Annotated[str, typer.Option(help="Only of this one.")] = "",
    count: Annotated[int, typer.Option(min=1, max=200)] = 20,
) -> None:
    """The newest runs on Kubeflow."""
    from pipelines.kubeflow import client

    server = client.Server(client.Login(host, namespace, token, cookies, ca_cert))
    rows = Table("run", "state", "started (UTC)", "minutes", "id")
    for run in server.recent(experiment, count):
        minutes = client.minutes(run)
        rows.add_row(
            Text(run.display_name),
            Text(run.state or "–"),
            f"{run.created_at:%Y-%m-%d %H:%M}",
            minutes,
            run.run_id,
        )
    out.print(rows)


@app.command("compile")
def compile_pipeline(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A pipeline; with --to job a component.", show_default=False)
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: NAME.yaml.")] = None,
    to: Annotated[Target, typer.Option(help="For Kubeflow Pipelines, or for kubectl alone.")] = Target.kfp,
    file: File = None,
    sets: Sets = [],  # noqa: B006
    title: Annotated[str, typer.Option("--name", help="Of the Job; default: NAME.")] = "",
    pool: Annotated[str, typer.Option(help="Node pool of the Job.")] = "cpu",
    cpu: Annotated[float, typer.Option(help="Cores of the Job.")] = 2,
    memory: Annotated[str, typer.Option(help="Memory of the Job.")] = "8Gi",
    max_hours: Annotated[float, typer.Option(help="Deadline of a pod of the Job.")] = 24,
    cron: Annotated[str, typer.Option(help="Make it a CronJob, UTC: minute hour day month weekday.")] = "",
) -> None:
    """Write one YAML that Kubeflow Pipelines accepts (UI, or kfp run create), or one component as a Job."""
    if to is Target.job:
        from pipelines.kubeflow import jobs

        path = output or Path(f"{name}-job.yaml")
        given = settings.override(settings.read(file) if file else {}, sets)
        size = jobs.Size(cpu, memory, max_hours)
        job = jobs.manifest(name, title or name.replace("_", "-"), given, settings.pool(pool), size)
        jobs.write(jobs.repeated(job, cron) if cron else job, path)
        out.print(f"kubectl create -f {path}", highlight=False, soft_wrap=True)
        return
    path = output or Path(f"{name}.yaml")
    _compile(name, path)
    rows = Table("task", "pool", "image")
    for _, leaf in pipeline_spec.leaves(pipeline_spec.read(path)):
        image = leaf.executor.container.image if leaf.executor.container else "–"
        rows.add_row(leaf.task.task_info.get("name", ""), pipeline_spec.pool(leaf.placement), image)
    out.print(rows)
    out.print(
        f"{path}: images from DEEPCUTS_REGISTRY and DEEPCUTS_TAG, pools from nodepools.yaml", highlight=False
    )


@app.command()
def plan(
    name: Name,
    file: File = None,
    sets: Sets = [],  # noqa: B006
    deadline_hours: Annotated[float, typer.Option(min=0, help="Done by then at p90; 0: no deadline.")] = 0.0,
    objective: Annotated[Objective, typer.Option(help="What to look for.")] = "cheapest",
    answer_share: Annotated[
        float, typer.Option(min=0.001, max=1, help="Share of the tokens that carry loss.")
    ] = 1.0,
) -> None:
    """Say where a pipeline's training fits, how long it takes and what it costs; nothing is run."""
    pipeline, pools = _read(name), settings.pools()
    if not {"base_uri", "recipe"} <= set(pipeline.root.input_definitions.parameters):
        raise ValueError(f"{name}: no training to plan, it has no base_uri and recipe: plan finetune")
    given = settings.override(settings.read(file) if file else {}, sets)
    uri = urlparse(str(given.get("base_uri", "")))
    if uri.scheme != "file":
        raise ValueError(
            f"base_uri {uri.geturl()!r}: plan reads config.json from a folder on this machine: "
            "fetch it (config.json is enough) and give --set base_uri=FOLDER"
        )
    money = budget(float(given.get("budget_usd") or 0), 0.0, [], "", pools)
    best, rejected = decide(
        Path(unquote(uri.path)),
        recipe.parse(given.get("recipe") or {}),
        pools,
        deadline_hours,
        objective,
        answer_share,
        Measurement(),
        money=money,
    )
    out.print(Markdown(markdown(best, rejected, money)))


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", show_default=False)],
    html: Annotated[
        Path | None, typer.Option(help="Of several runs: also write the table as a page.")
    ] = None,
) -> None:
    """Print the ledger of a run: what it cost, and the quality it bought; several runs side by side."""
    if len(folders) > 1:
        from pipelines.studies import (
            comparison,  # plots take a second, which other commands do not wait for
        )

        records = {folder: run_record.read(folder) for folder in folders}
        told = [
            comparison.read(folder, records[folder], _ledger(records[folder], folder)) for folder in records
        ]
        out.print(_side_by_side(comparison.HEAD, comparison.table(told)))
        if html:
            html.write_text(comparison.page(told))
            out.print(f"HTML: {html}", highlight=False, soft_wrap=True)
        return
    for folder in folders:
        record = run_record.read(folder)
        outputs = _ledger(record, folder)
        out.rule(f"{record.pipeline}: {folder} ({record.status})")
        if outputs:
            out.print(Markdown((outputs / "summary").read_text()))
            out.print(f"HTML: {_page(outputs, folder)}", highlight=False, soft_wrap=True)
        else:
            _conclude(record, folder, _pools(record.arguments))


@app.command()
def doctor(namespace: Namespace = "kubeflow") -> None:
    """Check Python, packages, store, devices, prices, cluster; every problem with its fix."""
    from pipelines.command import checkup  # the Kubernetes client takes half a second

    rows = Table("", "what", "found", "fix")
    for column in rows.columns:
        column.overflow = "fold"  # a command that ends in an ellipsis cannot be copied
    findings = medicine.examine(settings.pools(), os.environ, datetime.date.today())
    findings += checkup.examine(settings.pools(), namespace)
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
    raise typer.Exit(2 if any(finding.missing for finding in findings) else 0)


@app.command()
def ablate(
    file: Annotated[Path, typer.Argument(metavar="STUDY", help="A study (YAML).", show_default=False)],
    sets: Sets = [],  # noqa: B006
    folder: Folder = Path("runs"),
    parallel: Annotated[int, typer.Option(min=1, help="Runs at a time; CPU time is what counts.")] = 1,
) -> None:
    """Run every arm of a study as a pipeline of its own and compare cost at equal quality; resumable."""
    from pipelines.studies import (
        ablation,
        ablation_report,  # matplotlib takes a second, which others do not wait for
    )

    study = study_spec.read(file)
    given, place = settings.override({}, sets), folder / study.name
    ablation.check(study, _read(study.pipeline), given, _fills(place / "store"))
    results = ablation.run(study, given, place, parallel, say=lambda line: print(line, file=sys.stderr))
    ended = {result.trial for result in results}
    missing = [trial.folder for trial in study_spec.trials(study) if trial not in ended]
    if not results:
        raise ValueError(f"no run ended well: see the logs in {place}")
    found = savings.find(study, results, missing)
    write_json(place / "ablation.json", found)
    (place / "ablation.md").write_text(ablation_report.markdown(found))
    (place / "ablation.html").write_text(ablation_report.page(found))
    out.print(Markdown(ablation_report.markdown(found)))
    out.print(f"report: {place / 'ablation.html'}", highlight=False, soft_wrap=True)
    raise typer.Exit(1 if missing else 0)


@app.command()
def chat(
    release: Annotated[
        str, typer.Argument(metavar="RELEASE", help="Folder, URI, NAME or NAME/VERSION.", show_default=False)
    ],
    store: Releases = RELEASES,
    prompt: Annotated[
        list[str], typer.Option("--prompt", help="Say this instead of asking; again for more.")
    ] = [],  # noqa: B006
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 128,
    seed: Annotated[int, typer.Option(help="Draws the answers at a temperature.")] = 0,
) -> None:
    """Talk to a released model on the terminal; ends with the end of input (Ctrl-D)."""
    with talk.located(release, store) as folder:
        talk.talk(folder, prompt or talk.typed(input), temperature, max_new_tokens, seed)


@app.command()
def rollback(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the release.", show_default=False)],
    store: Releases = RELEASES,
) -> None:
    """Put the previous release back in service, after reading it back; nothing is deleted."""
    left, back = releases.rollback(open_store(store), name)
    out.print(f"{name}: {back} is in service again, {left} no more", highlight=False, soft_wrap=True)


def names() -> list[str]:
    """Every pipeline: ``pipelines/NAME.py`` with a ``@dsl.pipeline`` named as its file."""
    return sorted(
        p.stem for p in HERE.glob("*.py") if re.search(r"^@dsl\.pipeline", p.read_text(), re.MULTILINE)
    )


def _fills(store: Path) -> dict[str, Any]:
    """What the command knows and a user need not say."""
    return {
        "store_uri": store.resolve().as_uri(),
        "nodepools": settings.prices(),
    }


def _remote(name: str, file: Path | None, sets: list[str], root: str, package: Path) -> dict[str, Any]:
    """Compile ``name`` to ``package``; its arguments for a cluster, local files put into the store."""
    _package(name, package)
    pipeline, store_uri = pipeline_spec.read(package), f"{root.split('/v2/')[0]}/deepcuts"
    given = settings.override(settings.read(file) if file else {}, sets)
    fills = _fills(Path()) | {"store_uri": store_uri}
    arguments = settings.complete(pipeline, given, fills)
    from pipelines.kubeflow import client

    return client.lifted(arguments, store_uri)


def _compile(name: str, path: Path) -> None:
    """Compile a pipeline and read it back as Kubeflow does.

    Raises:
        ValueError: there is no such pipeline, or its node pools are wrong.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names())}"
        raise ValueError(f"no pipeline {name!r}: {hint}")
    from kfp import compiler, components  # takes a second, which report, doctor and --help do not wait for

    path.parent.mkdir(parents=True, exist_ok=True)
    pipeline = getattr(importlib.import_module(f"pipelines.{name}"), name)
    compiler.Compiler().compile(pipeline, str(path))
    _order_comment(path, pipeline.description)
    components.load_component_from_file(str(path))


def _order_comment(path: Path, description: str) -> None:
    """Write the comment of a compiled pipeline again, with the keys of defaults sorted as they are below it.

    kfp 2.17.0 takes them from a protobuf map, whose order differs from process to process.
    """
    from kfp.compiler.pipeline_spec_builder import extract_comments_from_pipeline_spec

    body = re.sub(r"\A(#.*\n)+", "", path.read_text())
    spec = next(iter(yaml.safe_load_all(body)))
    path.write_text(extract_comments_from_pipeline_spec(spec, description) + body)


def _package(name: str, path: Path) -> None:
    """The pipeline ``name`` compiled, or the compiled file of that name, at ``path``."""
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise ValueError(
                f"no compiled pipeline at {name}: write it with deepcuts compile, or name a pipeline"
            )
        shutil.copyfile(name, path)
    else:
        _compile(name, path)


def _read(name: str) -> pipeline_spec.Pipeline:
    with tempfile.TemporaryDirectory() as scratch:
        _package(name, Path(scratch) / "pipeline.yaml")
        return pipeline_spec.read(Path(scratch) / "pipeline.yaml")


def _parameters(pipeline: pipeline_spec.Pipeline) -> Table:
    """What a run of this pipeline can be told."""
    rows = Table(
        "parameter", "type", "default", "meaning", title=pipeline.pipeline_info.description, title_style=""
    )
    rows.columns[0].no_wrap = True
    known = pipeline.root.input_definitions.parameters
    for name in sorted(known, key=lambda name: known[name].is_optional):
        default = placeholders.encode(known[name].default_value) if known[name].is_optional else "required"
        kind = pipeline_spec.KINDS[known[name].parameter_type].__name__
        rows.add_row(
            name, kind, Text(FILLED.get(name, default)), Text(" ".join(known[name].description.split()))
        )
    if "recipe" in known:
        meanings = settings.meanings(Recipe)
        for field in msgspec.structs.fields(Recipe):
            meaning = meanings.get(field.name, "")
            rows.add_row(
                f"recipe.{field.name}",
                "",
                Text(placeholders.encode(getattr(Recipe(), field.name))),
                Text(meaning),
            )
    return rows


def _new(folder: Path, title: str) -> Path:
    """A name for a run that no run has yet."""
    stamp = f"{title}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    names = (stamp, *(f"{stamp}-{number}" for number in range(2, 1000)))
    return next(folder / name for name in names if not (folder / name).exists())


def _unfinished(folder: Path, pipeline: pipeline_spec.Pipeline, arguments: Mapping[str, Any]) -> Path | None:
    """The newest run of the same pipeline with the same arguments, unless it is done."""
    for path in sorted(folder.glob("*/run.json"), key=lambda file: file.stat().st_mtime, reverse=True):
        with contextlib.suppress(ValueError):  # a run of another version
            record = run_record.read(path.parent)
            if record.package_digest == pipeline.digest and record.arguments == arguments:
                return None if record.status == "done" else path.parent
    return None


def _pools(arguments: Mapping[str, Any]) -> dict[str, NodePool]:
    """The node pools that a run was told, else today's."""
    told = arguments.get("nodepools")
    return nodepools.parse(told) if told else settings.pools()


def _ledger(record: Run, folder: Path) -> Path | None:
    """Where the run's ledger lies."""
    for name, task in record.tasks.items():
        if task.step == "ledger" and task.status == "done":
            return folder / "tasks" / name / "outputs"
    return None


def _page(outputs: Path, folder: Path) -> Path:
    """The report under a name that a browser opens as a page."""
    return shutil.copyfile(outputs / "report", folder / "report.html")


class Quality(msgspec.Struct):
    """The part of ``ledger.json`` that is shown at the end of a run."""

    scorecards: dict[str, Scorecard]
    verdict: str
    next_action: str


def _conclude(record: Run, folder: Path, pools: Mapping[str, NodePool]) -> None:
    """What a run did: tasks, failures, quality, and where the report is."""
    out.print(progress_table.summary(record, folder, pools))
    for name, task in record.tasks.items():
        if task.status in ("failed", "interrupted"):
            out.print(Text(f"{task.name} {progress_table.state(task)}: {task.message}", "red"))
            out.print(f"log: {folder / 'tasks' / name / 'stderr.log'}", highlight=False, soft_wrap=True)
    outputs = _ledger(record, folder)
    if outputs:
        quality = msgspec.json.decode((outputs / "ledger" / "ledger.json").read_bytes(), type=Quality)
        if quality.scorecards:
            out.print(_quality(quality.scorecards))
        out.print(Text(f"{quality.verdict}: {quality.next_action}"))
        out.print(f"report: {_page(outputs, folder)}", highlight=False, soft_wrap=True)


def _side_by_side(head: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    """A column a run: a terminal is narrow, and there are more figures than runs."""
    rows = Table(*([head[0], *(line[0] for line in lines)]), caption="90 % intervals; positive is worse")
    for number, name in enumerate(head[1:], start=1):
        rows.add_row(name, *(Text(line[number]) for line in lines))
    return rows


def _quality(cards: Mapping[str, Scorecard]) -> Table:
    rows = Table("quality", *cards, caption="mean with its 95 % interval over examples", caption_style="dim")
    for metric in ("answer_loss", "exact_match", "label_accuracy"):
        intervals: list[Interval | None] = [getattr(card, metric) for card in cards.values()]
        if any(intervals):
            rows.add_row(
                metric, *(f"{v.mean:.3f} [{v.low:.3f}, {v.high:.3f}]" if v else "–" for v in intervals)
            )
    return rows


if __name__ == "__main__":
    main()
