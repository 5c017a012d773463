"""Give every command of ``deepcuts`` ``-h``, ``-q``, ``-v``, and examples below its help."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from deepcuts.pipelines.command.options import out
from deepcuts.pipelines.command.screen import Level

EXAMPLES = {
    "init": ("init", "init --base hf://ORG/NAME --data tickets.csv --task label --where kubeflow --gpu L4"),
    "run": (
        "run finetune -f run.yaml",
        "run finetune -f run.yaml --set recipe.learning_rate=1e-4 --set budget_usd=5",
        "run finetune --help",
    ),
    "submit": ("submit finetune -f run.yaml --host http://localhost:8080",),
    "schedule": ('schedule retrain -f run.yaml --cron "0 3 * * 0"',),
    "schedules": ("schedules", "schedules --delete retrain"),
    "runs": ("runs --count 5", "runs --json"),
    "cancel": ("cancel 3f2a",),
    "logs": ("logs runs/NAME finetune", "logs 3f2a finetune"),
    "compile": ("compile finetune", "compile select --to job -f select.yaml --pool cpu"),
    "plan": ("plan finetune -f run.yaml", "plan finetune -f run.yaml --json"),
    "preview": ("preview finetune -f run.yaml", "preview finetune -f run.yaml --html data.html"),
    "schema": ("schema finetune -o run.schema.json",),
    "doctor": ("doctor", "doctor --json"),
    "report": ("report runs/finetune-20261130-090000", "report runs/finetune-* --html compared.html"),
    "ablate": ("ablate study.yaml -f run.yaml", "ablate study.yaml --set data_uri=tickets.jsonl"),
    "releases": ("releases", "releases --json"),
    "chat": ("chat model", 'chat model --prompt "My card is lost."'),
    "export": ("export model --to served-model", "export model/VERSION --to s3://bucket/models/mine"),
    "rollback": ("rollback model",),
    "clean": ("clean", "clean --yes"),
}
"""Command lines by command, without the program's name."""


Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print only results, no progress or remarks.")]
Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", help="Also print task logs and the traceback of an error.")
]


class Command(TyperCommand):
    """A command whose help ends with examples."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help, then the examples."""
        super().format_help(ctx, formatter)
        for number, line in enumerate(EXAMPLES[self.name or ""]):
            head = " " * 10 if number else " Examples:"
            out.print(f"{head} deepcuts {line}", highlight=False, soft_wrap=True)
        out.print()


def level(quiet: bool, verbose: bool) -> Level:
    """Return the verbosity."""
    return Level.quiet if quiet else Level.verbose if verbose else Level.normal


def with_verbosity(call: Callable[..., None]) -> Callable[..., None]:
    """Return ``call`` with ``-q`` and ``-v`` among its parameters."""

    @functools.wraps(call)
    def command(*words: Any, quiet: bool, verbose: bool, **values: Any) -> None:
        out.level = level(quiet, verbose) or out.level
        call(*words, **values)

    own = inspect.signature(call, eval_str=True)
    kinds = {"quiet": Quiet, "verbose": Verbose}
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in kinds.items()
    ]
    command.__signature__ = own.replace(parameters=[*own.parameters.values(), *more])  # type: ignore[attr-defined]
    command.__annotations__ = {name: each.annotation for name, each in own.parameters.items()} | kinds
    return command
