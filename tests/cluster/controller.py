"""Plays Katib's controller on a real cluster: Experiments become Trials and Jobs.

It keeps the real one's rules, those of tests/components/katib.py. The suggestion service is ours in a pod, as
Katib would start it; a pod of database.py takes what trials report.
"""

import copy
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import yaml
from kubernetes import client

from components.tune import suggestion_pb2 as pb
from components.tune.trial import NAME
from tests.cluster.conftest import Kubectl
from tests.cluster.kfp import LOCKED
from tests.components.katib import Katib
from tests.conftest import ROOT

Json = dict[str, Any]
GROUP = ("kubeflow.org", "v1beta1")
DATABASE, SUGGESTION = "katib-db-manager", "asha"
PORT = 6789


class Controller:
    """Katib in ``namespace``; ``image`` is ops."""

    def __init__(self, kubectl: Kubectl, namespace: str, image: str) -> None:
        self.nodes: dict[str, str] = {}
        """Where each trial that has ended was."""
        self._kubectl, self._namespace = kubectl, namespace
        self._objects, self._jobs = client.CustomObjectsApi(), client.BatchV1Api()
        self._katib = Katib(self._play, self._suggest, self._check)
        self._serve(SUGGESTION, _service(), image)
        script = Path(__file__).with_name("database.py")
        kubectl("-n", namespace, "create", "configmap", DATABASE, f"--from-file={script}")
        self._serve(DATABASE, {"command": ["python", "/script/database.py"]}, image, mounted=True)
        for name in (SUGGESTION, DATABASE):
            kubectl("-n", namespace, "rollout", "status", f"deployment/{name}", "--timeout=120s")
        found = client.CoreV1Api().read_namespaced_service(SUGGESTION, namespace)
        self._channel = grpc.insecure_channel(f"{found.spec.cluster_ip}:{PORT}")

    @contextmanager
    def running(self, seconds: float = 1.0) -> Iterator[None]:
        """Look at all Experiments every so many ``seconds``; what goes wrong is raised at the end."""
        over, wrong = threading.Event(), []

        def rounds() -> None:
            while not over.wait(seconds):
                try:
                    self._round()
                except Exception as error:
                    wrong.append(error)
                    return

        thread = threading.Thread(target=rounds)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        if wrong:
            raise wrong[0]

    def _round(self) -> None:
        found = self._objects.list_namespaced_custom_object(*GROUP, self._namespace, "experiments")
        for experiment in found["items"]:
            if "deletionTimestamp" in experiment["metadata"]:
                continue
            name = experiment["metadata"]["name"]
            if name not in self._katib.experiments:
                self._katib.answer("POST", ["experiments"], experiment)
            status, known = self._katib.answer("GET", ["experiments", name], {})
            assert status == 200
            for trial in self._katib.trials:
                self._keep("trials", trial, experiment)
            self._told("experiments", known)

    def _keep(self, plural: str, thing: Json, owner: Json) -> None:
        """Create an object of ours, owned by ``owner`` and so gone with it, or say how it stands."""
        made = copy.deepcopy(thing) | {"apiVersion": "/".join(GROUP), "kind": "Trial"}
        made["metadata"] = {
            "name": thing["metadata"]["name"],
            "labels": {"katib.kubeflow.org/experiment": owner["metadata"]["name"]},
            "ownerReferences": [_owner(owner)],
        }
        try:
            self._objects.create_namespaced_custom_object(*GROUP, self._namespace, plural, made)
        except client.ApiException as error:
            if error.status != 409:
                raise
        self._told(plural, thing)

    def _told(self, plural: str, thing: Json) -> None:
        """Its status, as the server shall show it."""
        name, patch = thing["metadata"]["name"], {"status": thing["status"]}
        try:
            self._objects.patch_namespaced_custom_object_status(*GROUP, self._namespace, plural, name, patch)
        except client.ApiException as error:
            if error.status != 404:  # deleted meanwhile
                raise

    def _play(self, name: str, job: Json) -> str:
        try:
            found = self._jobs.read_namespaced_job(name, self._namespace)
        except client.ApiException as error:
            if error.status != 404:
                raise
            self._start(name, job)
            return ""
        ended = [c.type for c in found.status.conditions or [] if c.status == "True"]
        if "Failed" in ended:
            return "FAILED"
        if "Complete" not in ended:
            return ""
        listed = client.CoreV1Api().list_namespaced_pod(self._namespace, label_selector=f"job-name={name}")
        self.nodes[name] = listed.items[0].spec.node_name
        log = self._kubectl("-n", self._namespace, "logs", f"deployment/{DATABASE}")
        reports = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
        (loss,) = [report["valid_loss"] for report in reports if report["trial"] == name]
        return str(loss)

    def _start(self, name: str, job: Json) -> None:
        trial = self._objects.get_namespaced_custom_object(*GROUP, self._namespace, "trials", name)
        made = copy.deepcopy(job)
        made["metadata"] |= {"name": name, "ownerReferences": [_owner(trial)]}
        (container,) = made["spec"]["template"]["spec"]["containers"]
        container["env"].append({"name": NAME, "value": name})  # Katib's webhook does it to the pod
        self._jobs.create_namespaced_job(self._namespace, made)

    def _suggest(self, request: pb.GetSuggestionsRequest) -> pb.GetSuggestionsReply:
        reply: pb.GetSuggestionsReply = self._call("GetSuggestions", pb.GetSuggestionsReply)(
            request, timeout=30, wait_for_ready=True
        )
        return reply

    def _check(self, experiment: pb.Experiment) -> None:
        request = pb.ValidateAlgorithmSettingsRequest(experiment=experiment)
        call = self._call("ValidateAlgorithmSettings", pb.ValidateAlgorithmSettingsReply)
        call(request, timeout=30, wait_for_ready=True)

    def _call(self, method: str, reply: Any) -> Callable[..., Any]:
        call: Callable[..., Any] = self._channel.unary_unary(
            f"/api.v1.beta1.Suggestion/{method}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=reply.FromString,
        )
        return call

    def _serve(self, name: str, container: Json, image: str, mounted: bool = False) -> None:
        """A Deployment and its Service."""
        labels = {"app": name}
        volumes = [{"name": "script", "configMap": {"name": name}}] if mounted else []
        mounts = [{"name": "script", "mountPath": "/script"}] if mounted else []
        entry = {
            "name": name,
            "image": image,
            "volumeMounts": mounts,
            "securityContext": LOCKED | {"runAsNonRoot": True},
        } | container
        pod = {"containers": [entry], "volumes": volumes}
        ports = [{"port": PORT, "targetPort": PORT}]
        template = {"metadata": {"labels": labels}, "spec": pod}
        deployment = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name},
            "spec": {"selector": {"matchLabels": labels}, "template": template},
        }
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"selector": labels, "ports": ports},
        }
        both = yaml.safe_dump_all([deployment, service])
        self._kubectl("-n", self._namespace, "apply", "-f", "-", text=both)


def _service() -> Json:
    """How Katib starts our algorithm, by the entry that registers it."""
    (entry,) = yaml.safe_load_all((ROOT / "manifests" / "katib" / "suggestion.yaml").read_text())
    told = yaml.safe_load(entry["data"]["suggestion.yaml"])
    return {name: told[name] for name in ("command", "resources", "readinessProbe", "securityContext")}


def _owner(thing: Json) -> Json:
    return {
        "apiVersion": thing["apiVersion"],
        "kind": thing["kind"],
        "name": thing["metadata"]["name"],
        "uid": thing["metadata"]["uid"],
    }
