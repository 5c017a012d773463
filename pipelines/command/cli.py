"""The ``deepcuts`` command: run a pipeline here or on Kubeflow, read what it cost, use what it released."""

import sys

import typer

from deepcuts.components.core import escape
from deepcuts.components.core.errors import StoreError, exit_code
from deepcuts.pipelines.command import clean, export, kubeflow, plan, preview, release, report, run
from deepcuts.pipelines.runner import extras

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.command(add_help_option=False)(run.run)
app.command()(kubeflow.submit)
app.command()(kubeflow.schedule)
app.command()(kubeflow.schedules)
app.command("runs")(kubeflow.list_runs)
app.command()(kubeflow.cancel)
app.command()(kubeflow.logs)
app.command("compile")(plan.compile_pipeline)
app.command()(plan.plan)
app.command()(preview.preview)
app.command()(plan.doctor)
app.command()(report.report)
app.command()(report.ablate)
app.command("releases")(release.list_releases)
app.command()(release.chat)
app.command()(export.export)
app.command()(release.rollback)
app.command()(clean.clean)


def main() -> None:
    """Entry point: what a user can fix is a message on stderr and an exit code, never a traceback."""
    try:
        app()
    except ModuleNotFoundError as error:
        if not (hint := extras.advice(error.name or "")):
            raise
        print(f"deepcuts: {hint}", file=sys.stderr)
        sys.exit(2)
    except (ValueError, OSError, StoreError) as error:
        for line in escape.terminal(escape.redacted(str(error))).splitlines():
            print(f"deepcuts: {line}", file=sys.stderr)
        sys.exit(exit_code(error))


if __name__ == "__main__":
    main()
