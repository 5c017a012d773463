"""Fine-tune, compress and serve language models; every cut of their cost carries a receipt."""

import importlib.metadata
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import typer

from deepcuts.components.core import escape, extras
from deepcuts.components.core.errors import StoreError, exit_code
from deepcuts.pipelines.command import (
    clean,
    export,
    init,
    kubeflow,
    logs,
    plan,
    preview,
    release,
    report,
    run,
    submit,
)
from deepcuts.pipelines.command.options import out
from deepcuts.pipelines.command.screen import Level
from deepcuts.pipelines.command.shell import Command, Quiet, Verbose, level, with_verbosity

COMMANDS: dict[str, tuple[str, Callable[..., Any]]] = {
    "init": ("Start", init.init),
    "preview": ("Start", preview.preview),
    "plan": ("Start", plan.plan),
    "doctor": ("Start", plan.doctor),
    "run": ("Run", run.run),
    "report": ("Run", report.report),
    "logs": ("Run", logs.logs),
    "ablate": ("Run", report.ablate),
    "clean": ("Run", clean.clean),
    "releases": ("Released models", release.list_releases),
    "chat": ("Released models", release.chat),
    "export": ("Released models", export.export),
    "rollback": ("Released models", release.rollback),
    "submit": ("Kubeflow", submit.submit),
    "runs": ("Kubeflow", kubeflow.list_runs),
    "cancel": ("Kubeflow", kubeflow.cancel),
    "schedule": ("Kubeflow", kubeflow.schedule),
    "schedules": ("Kubeflow", kubeflow.schedules),
    "compile": ("Kubeflow", plan.compile_pipeline),
    "schema": ("Start", init.schema),
}
"""Every command by name, with its heading in the help and its function."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help=__doc__,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start: deepcuts init. Manual: docs/ of the repository. Exit codes: 2 settings, 3 data or "
    "something missing, 4 store, network or memory, 5 refused by a gate.",
)
for _name, (_panel, _call) in COMMANDS.items():
    app.command(_name, cls=Command, rich_help_panel=_panel, add_help_option=_name != "run")(
        with_verbosity(_call)
    )


def _version(given: bool) -> None:
    if given:
        print(f"deepcuts {importlib.metadata.version('deepcuts')}")
        raise typer.Exit()


@app.callback()
def start(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Accept the options before a command's name; the version is printed by its callback."""
    out.level = level(quiet, verbose)


def main() -> None:
    """Run the command; errors that a user can fix are a message on stderr and an exit code, no traceback."""
    out.level = Level.normal
    try:
        app()
    except ModuleNotFoundError as error:
        if not (hint := extras.advice(error.name or "")):
            raise
        print(f"deepcuts: {hint}", file=sys.stderr)
        sys.exit(2)
    except (ValueError, OSError, StoreError) as error:
        if out.level is Level.verbose:
            trace = escape.redacted("".join(traceback.format_exception(error)))
            print(escape.terminal(trace), end="", file=sys.stderr)
        for line in escape.terminal(escape.redacted(str(error))).splitlines():
            print(f"deepcuts: {line}", file=sys.stderr)
        sys.exit(exit_code(error))


if __name__ == "__main__":
    main()
