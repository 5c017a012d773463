"""Upload, run, follow and schedule pipelines on a Kubeflow server with kfp.Client (KFP 2.17)."""

import contextlib
import io
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import kfp
import kfp_server_api
import urllib3

from deepcuts.components.core import clock
from deepcuts.pipelines.runner import pipeline_spec, spec_types

RUN_ID_LENGTH = 36
ENDED = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")


class Login(NamedTuple):
    """How to reach Kubeflow Pipelines; kfp.Client decides on empty fields."""

    host: str
    """Empty: this pod's cluster, or kubeconfig."""
    namespace: str
    """Where Kubeflow Pipelines runs, or the profile on a multi-user Kubeflow."""
    token: str
    cookies: str
    ca_cert: str


class Version(NamedTuple):
    """An uploaded pipeline."""

    pipeline_id: str
    version_id: str


class _Client(kfp.Client):  # type: ignore[misc]
    def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:
        """Ask once: kfp's own method asks a refusing server five times, 5 s apart, with a traceback each."""
        return self._healthz_api.healthz_service_get_healthz()


class Server:
    """A Kubeflow Pipelines server.

    Methods raise ValueError for errors the user can fix, ConnectionError if the server is unreachable.
    """

    def __init__(self, login: Login) -> None:
        self._login = login
        self._profile = login.namespace if login.namespace != "kubeflow" else None
        with self._asking(), warnings.catch_warnings(action="ignore"):
            self._client = _Client(
                host=login.host or None,
                namespace=login.namespace,
                existing_token=login.token or None,
                cookies=login.cookies or None,
                ssl_ca_cert=login.ca_cert or None,
            )

    def upload(self, package: Path) -> Version:
        """Return the version with exactly this package, an earlier or a new one, named by its digest."""
        pipeline = pipeline_spec.read(package)
        info, name = pipeline.pipeline_info, f"{pipeline.pipeline_info.name}-{pipeline.digest[:12]}"
        with self._asking():
            found = self._client.list_pipelines(namespace=self._profile, filter=named(info.name)).pipelines
            pipeline_id = found[0].pipeline_id if found else self._create(info)
            versions = self._client.list_pipeline_versions(pipeline_id, filter=named(name)).pipeline_versions
            version = (versions or [None])[0] or self._client.upload_pipeline_version(
                str(package), name, pipeline_id=pipeline_id, description=info.description
            )
        return Version(pipeline_id, version.pipeline_version_id)

    def _create(self, info: spec_types.Info) -> str:
        """Create a pipeline without versions; uploading would name the first version after the pipeline."""
        body = kfp_server_api.V2beta1Pipeline(
            name=info.name, display_name=info.name, description=info.description, namespace=self._profile
        )
        made: str = self._client.pipelines.pipeline_service_create_pipeline(body).pipeline_id
        return made

    def start(
        self, version: Version, title: str, arguments: Mapping[str, Any], experiment: str, root: str
    ) -> str:
        """Start a run; return its id."""
        with self._asking():
            started = self._client.run_pipeline(
                self._experiment(experiment),
                title,
                params=dict(arguments),
                pipeline_id=version.pipeline_id,
                version_id=version.version_id,
                pipeline_root=root,
            )
        run_id: str = started.run_id
        return run_id

    def schedule(
        self,
        version: Version,
        title: str,
        arguments: Mapping[str, Any],
        experiment: str,
        root: str,
        cron: str,
    ) -> list[str]:
        """Run by ``cron`` (UTC), one at a time, without catching up; return ids of replaced schedules.

        The server cannot change a schedule, so a new one is created and those of the same title are deleted
        or, while a run of theirs has not ended, disabled.
        """
        with self._asking():
            experiment_id = self._experiment(experiment)
            old = self._client.list_recurring_runs(experiment_id=experiment_id, filter=named(title))
            self._client.create_recurring_run(
                experiment_id,
                title,
                cron_expression=cron,
                max_concurrency=1,
                no_catchup=True,
                params=dict(arguments),
                pipeline_id=version.pipeline_id,
                version_id=version.version_id,
                pipeline_root=root,
            )
            replaced = [job.recurring_run_id for job in old.recurring_runs or []]
            for job in replaced:
                self._retire(job)
        return replaced

    def schedules(self, experiment: str) -> list[kfp_server_api.V2beta1RecurringRun]:
        """Return the schedules of one experiment, or all if it is empty."""
        with self._asking():
            found = self._client.list_recurring_runs(
                page_size=200,
                experiment_id=self._experiment(experiment) if experiment else None,
                namespace=self._profile,
            )
        return list(found.recurring_runs or [])

    def delete_schedule(self, schedule_id: str) -> None:
        """Disable a schedule, and delete it unless one of its runs has not ended.

        Raises:
            ValueError: names the run. With the schedule, the server would delete the run's workflow and show
                the run as running forever (measured, 2.17).
        """
        with self._asking():
            if run := self._retire(schedule_id):
                raise ValueError(
                    f"{schedule_id} is disabled, but its run {run} has not ended and would be lost with "
                    "it: wait for the run or cancel it, then delete the schedule"
                )

    def _retire(self, schedule_id: str) -> str:
        """Disable a schedule and delete it, or return the id of its run that has not ended."""
        self._client.disable_recurring_run(schedule_id)
        for run in self.recent("", 200):
            if run.recurring_run_id == schedule_id and run.state not in ENDED:
                return str(run.run_id)
        self._client.delete_recurring_run(schedule_id)
        return ""

    def find(self, run: str) -> str:
        """Return the full id of a run given by its id, the start of its id, or its name.

        Raises:
            FileNotFoundError: there is no such run.
            ValueError: there are several.
        """
        if len(run) == RUN_ID_LENGTH:
            return run
        known = self.recent("", 200)
        found = [r.run_id for r in known if r.run_id.startswith(run)] or [
            r.run_id for r in known if r.display_name == run
        ]
        if len(found) != 1:
            number = "no run" if not found else f"{len(found)} runs"
            kind = ValueError if found else FileNotFoundError
            raise kind(f"{number} {run!r} among the newest 200: deepcuts runs lists their ids")
        return str(found[0])

    def cancel(self, run_id: str) -> None:
        """Stop a run."""
        with self._asking():
            self._client.terminate_run(run_id)

    def recent(self, experiment: str, count: int) -> list[kfp_server_api.V2beta1Run]:
        """Return the newest runs, newest first, of one experiment, or of all if it is empty."""
        with self._asking():
            found = self._client.list_runs(
                page_size=count,
                sort_by="created_at desc",
                experiment_id=self._experiment(experiment) if experiment else None,
                namespace=self._profile,
            )
        return list(found.runs or [])

    def look(self, run_id: str) -> kfp_server_api.V2beta1Run:
        with self._asking():
            return self._client.get_run(run_id)

    def pipeline_of(self, run: kfp_server_api.V2beta1Run) -> str:
        """Return the name of a run's pipeline, which is its folder below the pipeline root."""
        if run.pipeline_spec:  # started from a package that was not uploaded
            spec = run.pipeline_spec.get("pipeline_spec", run.pipeline_spec)
            return str(spec["pipelineInfo"]["name"])
        with self._asking():
            found = self._client.get_pipeline(run.pipeline_version_reference.pipeline_id)
        return str(found.display_name)

    def page(self, run_id: str) -> str:
        """Return the run's URL in the UI."""
        return f"{self._client._get_url_prefix()}/#/runs/details/{run_id}"

    def _experiment(self, name: str) -> str:
        found: str = self._client.create_experiment(name, namespace=self._profile).experiment_id
        return found

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn the server's refusals into messages, and drop the links that kfp prints."""
        where = self._login.host or "the cluster of this kubeconfig"
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                yield
        except kfp_server_api.ApiException as error:
            raise refusal(where, error) from error
        except urllib3.exceptions.HTTPError as error:
            raise ConnectionError(
                f"no Kubeflow Pipelines at {where}: check --host, or kubectl -n kubeflow port-forward "
                f"svc/ml-pipeline-ui 8080:80 ({error})"
            ) from error


def refusal(where: str, error: kfp_server_api.ApiException) -> Exception:
    """Return the error for the user for an HTTP error of the server."""
    try:
        said = json.loads(error.body or "{}").get("error_description") or json.loads(error.body)["message"]
    except (ValueError, KeyError, TypeError):
        said = str(error.reason)
    said = " ".join(said.split())[:400]
    if error.status in (401, 403):
        fix = "pass --token or --cookies of a user who may use --namespace"
        return ValueError(f"{where} refuses us ({error.status} {said}): {fix}")
    if error.status is not None and error.status < 500:
        return ValueError(f"{where} does not accept this ({error.status}): {said}")
    return ConnectionError(f"{where} failed ({error.status} {said}): try again, check pod ml-pipeline")


def named(name: str) -> str:
    """Return an API filter by name."""
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})


def minutes(run: kfp_server_api.V2beta1Run) -> str:
    """Return the minutes a run took, or has taken so far."""
    end = run.finished_at if run.state in ENDED else clock.now()
    return f"{(end - run.created_at).total_seconds() / 60:.1f}" if end else "–"
