"""Write a commented run.yaml, node pools with the user's GPU, and a schema for editors."""

import datetime
import enum
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from deepcuts.components.core import clock, nodepools
from deepcuts.pipelines.command import gpus, packages
from deepcuts.pipelines.command.options import Name, out
from deepcuts.pipelines.run_file import parameters, places

RUN, POOLS, SCHEMA = "run.yaml", "nodepools.yaml", "run.schema.json"
EXAMPLE_BASE, EXAMPLE_DATA = "example://base", "example://support.jsonl"


class DataKind(enum.StrEnum):
    answer = "answer"
    label = "label"
    text = "text"


class Where(enum.StrEnum):
    here = "here"
    kubeflow = "kubeflow"


MEASURES = {
    DataKind.answer: "measures: [completion_loss, exact_match]",
    DataKind.label: "measures: [completion_loss, exact_match, label_accuracy]  # the answer is a class",
    DataKind.text: "format: text                   # documents, no questions: every token is learned",
}
EXAMPLE_RECIPE = """\
  learning_rate: 5e-3          # the example's base has a million weights; the default follows a model's width
  budget_tokens: 450000        # where training stops, counted over all epochs; or epochs: 3
  tokens_per_step: 4096        # prompt and answer tokens of one optimizer step
"""
OWN_RECIPE = """\
  budget_tokens: 1000000       # where training stops; or epochs: 3; rate and step size follow
"""


def init(
    base: Annotated[str, typer.Option(help="Model: folder, ORG/NAME of the hub, s3://.")] = "",
    data: Annotated[str, typer.Option(help="Your examples: JSONL, JSON, CSV, Parquet; folder, s3://.")] = "",
    task: Annotated[
        DataKind | None, typer.Option(help="Free answers, one of a few labels, or plain text.")
    ] = None,
    where: Annotated[Where | None, typer.Option(help="On this machine, or on Kubeflow.")] = None,
    gpu: Annotated[str, typer.Option(help=f"Your GPU: {', '.join(gpus.GPUS)}; none.")] = "",
    usd_per_hour: Annotated[
        float | None, typer.Option(min=0, help="Price per hour of a node with it; else unknown.")
    ] = None,
    folder: Annotated[Path, typer.Option("--in", help="Folder for the files.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
) -> None:
    """Write run.yaml and nodepools.yaml for your model, data and GPU; asks for missing options."""
    ask = sys.stdin.isatty()
    base = base or _asked("Base model (folder, ORG/NAME of the hub, s3://)", EXAMPLE_BASE, ask)
    data = data or _asked("Your examples (file, folder, ORG/NAME of a data set, s3://)", EXAMPLE_DATA, ask)
    task = task or DataKind(_asked("Task: answer, label or text", DataKind.answer, ask, tuple(DataKind)))
    where = where or Where(_asked("Where to run: here or kubeflow", Where.here, ask, tuple(Where)))
    gpu = gpu or _asked(f"GPU ({', '.join(gpus.GPUS)}; none)", gpus.found() or "none", ask)
    chosen = None if gpu == "none" else gpus.named(gpu)
    given = places.anchored({"base_uri": base, "data_uri": data}, Path.cwd())
    for name, value in given.items():
        places.check_there(name, value)
    texts = {
        RUN: run_yaml(given["base_uri"], given["data_uri"], task),
        POOLS: nodepools_yaml(chosen, usd_per_hour, clock.local().date()),
        SCHEMA: schema_text("finetune"),
    }
    if taken := [str(folder / name) for name in texts if (folder / name).exists() and not force]:
        raise FileExistsError(f"{', '.join(taken)}: exists already: give --in FOLDER, or --force")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
        out.note(f"wrote {folder / name}")
    nodepools.read(folder / POOLS)
    for line in next_commands(folder, where):
        out.print(line, highlight=False, soft_wrap=True)


def schema(
    name: Name = "finetune",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: the screen.")] = None,
) -> None:
    """Write the JSON schema of a pipeline's run.yaml, for completion and checks in an editor."""
    text = schema_text(name)
    if output:
        output.write_text(text)
        out.note(f"{output}: name it in run.yaml: # yaml-language-server: $schema={output.name}")
    else:
        print(text, end="")


def schema_text(name: str) -> str:
    """Return the JSON schema of a run.yaml of the pipeline ``name``."""
    return json.dumps(parameters.schema(packages.read(name)), indent=1) + "\n"


def run_yaml(base: str, data: str, task: DataKind) -> str:
    """Return a run file with the most common settings and comments."""
    example = base == EXAMPLE_BASE
    return f"""\
# yaml-language-server: $schema={SCHEMA}
# All keys: deepcuts run finetune --help. Paths are relative to this file's folder.
base_uri: {json.dumps(base)}
data_uri: {json.dumps(data)}
{MEASURES[task]}
max_tokens: {256 if example else 512}                # longer examples are set aside
max_examples: 200              # at most this many test examples are scored, before and after
release_name: model            # deepcuts chat model
nodepools: {POOLS}      # where steps run, and prices per hour
budget_usd: 0                  # above 0: refuse training that costs more; every pool then needs a price
recipe:
  method: lora                 # or full
  lora_rank: 16
{EXAMPLE_RECIPE if example else OWN_RECIPE}  seq_len: 512                 # at least max_tokens
"""


def nodepools_yaml(gpu: gpus.Gpu | None, usd_per_hour: float | None, today: datetime.date) -> str:
    """Return node pools: this machine's CPU, and the GPU, or the L4 of the project's own file.

    A price that was not given is null: unknown, and unknown in the ledger.
    """
    price = _price(usd_per_hour, today)
    cores = os.cpu_count() or 1
    card = gpu or gpus.GPUS["L4"]
    note = (
        "your GPU" if gpu else "no GPU was named: this is an L4, for plan to compare with; edit or ignore it"
    )
    cpu_speed = (
        f"flops_per_second: {cores * 6.3e10:.3g}  # fp32: 63 GFLOP/s a core were measured elsewhere\n"
        "  memory_bytes_per_second: 2.0e+10  # assumed"
    )
    text = f"""\
# Where steps may run and what one node costs per hour; keep the names cpu, gpu and gpu-spot. On a cluster,
# selector and tolerations are the labels and taints of your nodes (kubectl get nodes --show-labels).
# usd_per_hour: what YOU pay for one whole node, with price_source and price_date; null is unknown, never 0.
pools:
- name: cpu
  selector: {{node-pool: cpu}}
  {cpu_speed}
  cpu_cores: {cores}
  memory_bytes: {_memory_bytes()}  # of the machine where deepcuts init ran
  {price if not gpu else _price(None, today)}
"""
    for name in ("gpu", "gpu-spot"):
        spot = "  spot: true\n" if name == "gpu-spot" else ""
        text += f"""
- name: {name}  # {note}
  selector: {{node-pool: {name}}}
  tolerations:
  - key: nvidia.com/gpu
  accelerator: nvidia.com/gpu
  accelerator_model: {card.name}
  accelerator_count: 1
  accelerator_memory_bytes: {card.memory_bytes}
  flops_per_second: {card.flops_per_second:.4g}  # {card.precision}, dense, its maker's sheet
  memory_bytes_per_second: {card.memory_bytes_per_second:.4g}  # the same sheet
  cpu_cores: 8  # of the node: edit it
  memory_bytes: 34359738368  # of the node, 32 GiB: edit it
{spot}  {price if gpu and not spot else _price(None, today)}
"""
    return text


def next_commands(folder: Path, where: Where) -> list[str]:
    """Return the next commands to type."""
    run, found = (
        folder / RUN,
        [f"next: deepcuts preview finetune -f {folder / RUN}   # the data as it is read"],
    )
    if where is Where.kubeflow:
        found += [
            f"      export DEEPCUTS_NODEPOOLS={(folder / POOLS).resolve()}",
            "      deepcuts doctor",
            f"      deepcuts submit finetune -f {run} --host http://localhost:8080",
        ]
    else:
        found += [
            f"      deepcuts plan finetune -f {run}      # where it fits, how long, how much",
            f"      deepcuts run finetune -f {run}",
        ]
    return found


def _asked(question: str, default: str, ask: bool, choices: tuple[str, ...] = ()) -> str:
    """Return the user's answer, or the default if nobody can answer."""
    while ask:
        answer: str = typer.prompt(question, default=default)
        if not choices or answer in choices:
            return answer
        out.print(f"one of {', '.join(choices)}", highlight=False)
    return str(default)


def _price(usd: float | None, today: datetime.date) -> str:
    if usd is None:
        return "usd_per_hour: null"
    return f'usd_per_hour: {usd:g}\n  price_source: user\n  price_date: "{today.isoformat()}"'


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
