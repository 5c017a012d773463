"""Shared parts of scheduled retraining's three Jobs: placement, security, file transfer, the next Job."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from kfp.dsl.base_component import BaseComponent

from deepcuts.components.core import nodepools, pods
from deepcuts.components.core.container import REGISTRY, TAG
from deepcuts.components.finetune.component import finetune
from deepcuts.components.retrain import start
from deepcuts.pipelines import pools
from deepcuts.pipelines.kubeflow import jobs
from deepcuts.pipelines.kubeflow.jobs import CARRY, MOVE, OF_JOB, Json
from deepcuts.pipelines.placement import Size

BUCKET = "s3://deepcuts"
STORE, NAME = f"{BUCKET}/store", "model"
SMALL = Size(2, "8Gi", max_hours=6)
WORTH = ["sh", "-c", 'grep -qx true /carry/retrain || exit 0; exec "$@"', "--"]
"""Prefix of commands that run only if a retraining is worth it."""
OF_CHAIN = [
    {"name": name, "valueFrom": {"fieldRef": {"fieldPath": f"metadata.labels['{label}']"}}}
    for name, label in (("WINDOW", start.WINDOW_LABEL), ("RELEASE", start.RELEASE_LABEL))
]
TOKEN: Json = {  # with all fields, or a second kubectl apply would find a difference
    "projected": {
        "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {
                "downwardAPI": {
                    "items": [
                        {
                            "path": "namespace",
                            "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                        }
                    ]
                }
            },
        ]
    }
}
ACCOUNT_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"


class Link:
    """One of the three Jobs, with the settings of its containers."""

    def __init__(self, name: str, pool: str, size: Size, *, first: bool = False) -> None:
        self.name, self._pool, self._size, self._first = name, pool, size, first
        self._place = _leaf(pool, size, finetune)[0].placement
        self._attempts = {
            "name": "DEEPCUTS_ATTEMPTS",
            "value": f"{BUCKET}/retrain/attempts/$(JOB_NAME)",
        }
        chain = [] if first else OF_CHAIN
        self._env = [*jobs.environment(self._place), OF_JOB[0], *chain, self._attempts]
        self._mounts = [
            {"name": "scratch", "mountPath": pods.SCRATCH},
            {"name": "carry", "mountPath": CARRY},
        ]
        self._resources = jobs.quantities(_leaf("cpu", SMALL, finetune)[1])

    @property
    def runs(self) -> str:
        """Return the folder of a chain's files, which has the first Job's name."""
        return f"{BUCKET}/retrain/runs/{'$(JOB_NAME)' if self._first else '$(WINDOW)'}"

    def run(
        self,
        name: str,
        image: str,
        words: Sequence[str],
        *,
        worth: bool = False,
        mounts: Sequence[Json] = (),
        large: bool = False,
    ) -> Json:
        """Return the container ``name`` running ``words`` in an image; ``large`` has the Job's full size."""
        named = 4 if name in ("get", "put") else 3  # carry's direction is part of its command
        command, args = (WORTH, [*words]) if worth else ([*words[:named]], [*words[named:]])
        resources = jobs.quantities(_leaf(self._pool, self._size, finetune)[1]) if large else self._resources
        return {
            "name": name,
            "image": f"{REGISTRY}/{image}:{TAG}",
            "command": command,
            "args": args,
            "env": self._env,
            "securityContext": pods.LOCKED,
            "resources": resources,
            "volumeMounts": [*self._mounts, *mounts] if mounts else self._mounts,
        }

    def step(
        self,
        name: str,
        face: BaseComponent,
        places: dict[str, str],
        receipt: str,
        settings: Json,
        *,
        worth: bool = False,
        large: bool = False,
    ) -> Json:
        """Return the container that runs a component's step with its artifacts at ``places`` in the pod."""
        leaf, _ = _leaf(self._pool, self._size, face)
        assert leaf.executor.container
        paths = {artifact: f"{CARRY}/{place}" for artifact, place in places.items()}
        words = jobs.argv(leaf, settings, paths | {"receipt": f"{CARRY}/{receipt}.json"})
        used = leaf.executor.container.image.rpartition("/")[2].partition(":")[0]
        made = self.run(name, used, words, worth=worth, large=large)
        if large:
            made["volumeMounts"] = [
                self._mounts[0],
                {"name": "shm", "mountPath": "/dev/shm"},
                self._mounts[1],
            ]
        return made

    def pull(self, image: str, version: str, receipt: str) -> Json:
        """Return the container that downloads the release ``version``."""
        words = ["python", "-m", "deepcuts.components.publish.pull", "--store", STORE, "--name", NAME]
        words += ["--version", version, "--folder", f"{CARRY}/model", "--receipt", f"{CARRY}/{receipt}.json"]
        return self.run("pull", image, words)

    def carry(self, way: str, image: str, files: Sequence[str], folder: str = "") -> Json:
        """Return the container that downloads ``files`` from the chain's folder, or uploads them."""
        words = [*MOVE, way]
        for file in files:
            words += [f"{folder or self.runs}/{Path(file).name}", f"{CARRY}/{file}"]
        return self.run(way, image, words)

    def start(self, follower: str, suffix: str, release: str, *, worth: bool = False) -> Json:
        """Return the container that creates the next Job; only this one has a token."""
        own = "$(JOB_NAME)" if self._first else "$(WINDOW)"
        words = ["python", "-m", "deepcuts.components.retrain.start", follower, f"{own}-{suffix}", own]
        token = {"name": "token", "mountPath": ACCOUNT_FOLDER, "readOnly": True}
        return self.run("start", "ops", [*words, f"{CARRY}/{release}.json"], worth=worth, mounts=[token])

    def cronjob(self, containers: list[Json], volumes: Json, account: str, cron: str) -> Json:
        """Return the CronJob, suspended until its owner has filled in the settings."""
        spec = jobs.pod(self._place) | jobs.ACCOUNT_OF_JOBS | {"serviceAccountName": account}
        spec = {key: value for key, value in spec.items() if value != []}
        spec["securityContext"] |= {"fsGroup": pods.NOBODY}
        limit = {"emptyDir": {"sizeLimit": pods.SCRATCH_LIMIT}}
        spec["volumes"] += [{"name": key, **source} for key, source in ({"carry": limit} | volumes).items()]
        made = jobs.repeated(
            jobs.job(self.name, self._place["podMetadata"]["labels"], spec, containers), cron
        )
        made["spec"] = {"suspend": True} | made["spec"]
        return made


@cache
def _leaf(pool: str, size: Size, face: BaseComponent) -> Any:
    return jobs.compiled(face, nodepools.read(pools.NODEPOOLS)[pool], size)


class Anchored(yaml.SafeDumper):
    """Writes values shared by a pod's containers once, as anchors."""

    shared: Mapping[int, str] = {}
    """Names by id of the value."""

    def ignore_aliases(self, data: object) -> bool:
        """Write all other values out each time."""
        return id(data) not in self.shared

    def generate_anchor(self, node: yaml.Node) -> str:
        """Return the name of a shared value."""
        return next(name for key, name in self.shared.items() if self.represented_objects.get(key) is node)
