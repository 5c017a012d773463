"""The part of ``deepcuts doctor`` that asks Kubernetes: server, Kubeflow, store, node pools, Katib.

What a cluster lacks is no fault of this machine: only versions with known holes are marked ``missing``.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import urllib3
from kubernetes import client

from components.core import pods
from components.core.nodepools import NodePool
from pipelines.doctor import Finding, numbers
from pipelines.harvest import connected

SECONDS = 5
FLOORS = {"ml-pipeline": (2, 17), "workflow-controller": (3, 7, 15)}
"""Oldest without the known holes: KFP's isolation of namespaces, Argo's CVE-2026-54526."""
INSTALL = "install Kubeflow Pipelines 2.17 (README, On a cluster)"
OVERLAY = "kubectl apply -k manifests/overlays/laptop, or cloud"
NOT_FOUND, FORBIDDEN = 404, 403


def examine(pools: Mapping[str, NodePool], namespace: str) -> Iterator[Finding]:
    """Everything worth knowing about the cluster of this kubeconfig, in the order in which to mend it."""
    if not connected():
        yield Finding("cluster", "no kubeconfig: deepcuts run needs none")
        return
    try:
        version = client.VersionApi().get_code(_request_timeout=SECONDS)
    except (client.ApiException, urllib3.exceptions.HTTPError) as error:
        reason = " ".join(str(error).split())[:120]
        yield Finding("cluster", f"no answer: {reason}", "start it, or point KUBECONFIG elsewhere")
        return
    yield Finding("cluster", f"Kubernetes {version.git_version}")
    core, apps = client.CoreV1Api(), client.AppsV1Api()
    for name in FLOORS:
        yield _deployment(apps, namespace, name)
    for name in ("pipeline-runner", pods.ACCOUNT):
        fix = INSTALL if name == "pipeline-runner" else OVERLAY
        yield _thing(f"account {name}", core.read_namespaced_service_account, name, namespace, fix)
    secret = "kubectl -n {} create secret generic {} --from-literal=accesskey=… --from-literal=secretkey=…"
    fix = secret.format(namespace, pods.SECRET)
    yield _keys(core.read_namespaced_secret, pods.SECRET, set(pods.SECRET_ENV), namespace, fix)
    keys = set(pods.SETTINGS_ENV)
    yield _keys(core.read_namespaced_config_map, pods.SETTINGS, keys, namespace, OVERLAY)
    yield from _pools(core, pools)
    yield _katib()


def _looked(read: Callable[..., Any], *words: str) -> tuple[Any, str]:
    """(what was read, or None; why it was not)."""
    try:
        return read(*words, _request_timeout=SECONDS), ""
    except client.ApiException as error:
        why = {NOT_FOUND: "missing", FORBIDDEN: "this user may not look"}
        return None, why.get(error.status, f"HTTP {error.status}")


def _deployment(apps: client.AppsV1Api, namespace: str, name: str) -> Finding:
    found, why = _looked(apps.read_namespaced_deployment, name, namespace)
    if not found:
        return Finding(name, why, INSTALL if why == "missing" else "")
    image = found.spec.template.spec.containers[0].image
    tag = image.partition("@")[0].rpartition("/")[2].partition(":")[2].removeprefix("v")
    state = f"{tag or image}, {found.status.ready_replicas or 0} ready"
    floor = FLOORS[name]
    if not tag[:1].isdigit():
        return Finding(
            name, state, "version unknown: check that it is " + ".".join(map(str, floor)) + " or later"
        )
    if numbers(tag) < floor:
        return Finding(name, state, f"upgrade to {'.'.join(map(str, floor))} or later", missing=True)
    return Finding(name, state, "" if found.status.ready_replicas else f"kubectl -n {namespace} describe pod")


def _thing(subject: str, read: Callable[..., Any], name: str, namespace: str, fix: str) -> Finding:
    found, why = _looked(read, name, namespace)
    return Finding(subject, "there" if found else why, "" if found or why != "missing" else fix)


def _keys(read: Callable[..., Any], name: str, keys: set[str], namespace: str, fix: str) -> Finding:
    """A Secret or ConfigMap that steps take variables from; its values are not shown."""
    found, why = _looked(read, name, namespace)
    if not found:
        return Finding(name, why, fix if why == "missing" else "")
    absent = sorted(keys - set(found.data or {}))
    return Finding(name, f"lacks {', '.join(absent)}" if absent else "there", fix if absent else "")


def _pools(core: client.CoreV1Api, pools: Mapping[str, NodePool]) -> Iterator[Finding]:
    """Whether nodes of each pool exist, have its device, and are kept free by a taint."""
    nodes, why = _looked(core.list_node)
    if not nodes:
        yield Finding("node pools", why)
        return
    for pool in pools.values():
        subject = f"pool {pool.name}"
        mine = [n for n in nodes.items if pool.selector.items() <= (n.metadata.labels or {}).items()]
        labels = ",".join(f"{key}={value}" for key, value in pool.selector.items())
        names = ", ".join(node.metadata.name for node in mine[:3])
        if not mine:
            yield Finding(
                subject,
                f"no node with {labels}",
                "correct selector in nodepools.yaml, unless it scales from 0",
            )
        elif pool.accelerator and not any(
            n.status.allocatable.get(pool.accelerator, "0") != "0" for n in mine
        ):
            yield Finding(subject, f"{names} without {pool.accelerator}", "install the device plugin")
        elif pool.accelerator and not all(n.spec.taints for n in mine):
            taint = f"kubectl taint nodes -l {labels} {pool.accelerator}=present:NoSchedule"
            yield Finding(subject, f"{names} without a taint: KFP's drivers would land there", taint)
        else:
            yield Finding(subject, f"{len(mine)} nodes: {names}")


def _katib() -> Finding:
    read = client.ApiextensionsV1Api().read_custom_resource_definition
    found, why = _looked(read, "experiments.kubeflow.org")
    fix = "install Katib 0.19 for searches on many nodes; tune's own engine needs none"
    if not found:
        return Finding("Katib", why, fix if why == "missing" else "")
    return Finding("Katib", ", ".join(v.name for v in found.spec.versions if v.served))
