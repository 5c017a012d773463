"""Check the cluster for ``deepcuts doctor``: server, Kubeflow, store, node pools, Katib.

Things missing in a cluster are not this machine's fault: only versions with known holes are ``missing``.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import urllib3
import yaml
from kubernetes import client
from packaging.version import Version

from deepcuts.components.core import pods
from deepcuts.components.core.nodepools import NodePool
from deepcuts.pipelines.command.doctor import Finding
from deepcuts.pipelines.kubeflow.pods import connected

SECONDS = 5
FLOORS = {"ml-pipeline": (2, 17), "workflow-controller": (3, 7, 15)}
"""Oldest versions without known holes: KFP's isolation of namespaces, Argo's CVE-2026-54526."""
INSTALL = "install Kubeflow Pipelines 2.17 (README, On a cluster)"
OVERLAY = "kubectl apply -k manifests/overlays/laptop, or cloud"
NOT_FOUND, FORBIDDEN = 404, 403
KATIB = "kubeflow"
"""Katib's own namespace, as in manifests/katib and the pipeline tune_katib."""
CONFIG, KEY, ALGORITHM = "katib-config", "katib-config.yaml", "asha"
"""Where Katib 0.19 looks up an algorithm's service, and our entry (components/tune_katib/register.py)."""
REGISTER = "kubectl apply -k manifests/katib"
LABEL = "katib.kubeflow.org/metrics-collector-injection"
"""Katib's webhook refuses Experiments in namespaces without this label."""
LAUNCHER, KFP_STORE = "kfp-launcher", "minio-service:9000"
"""KFP 2.17's launcher settings, and the store it uses if they name none."""
MAX_IMAGES = 50
"""A kubelet lists at most this many images, the largest ones."""


def examine(pools: Mapping[str, NodePool], namespace: str) -> Iterator[Finding]:
    """Check the cluster of this kubeconfig; yield findings in the order in which to fix them."""
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
    fix = f"for serving only: {secret.format(namespace, pods.READER)}"
    yield _keys(core.read_namespaced_secret, pods.READER, set(pods.SECRET_ENV), namespace, fix)
    keys = set(pods.SETTINGS_ENV)
    yield _keys(core.read_namespaced_config_map, pods.SETTINGS, keys, namespace, OVERLAY)
    yield from _one_store(core, namespace)
    nodes, why = _looked(core.list_node)
    yield from _pools(nodes.items, pools) if nodes else [Finding("node pools", why)]
    yield from _katib(core, nodes.items if nodes else [], namespace)


def _looked(read: Callable[..., Any], *words: str) -> tuple[Any, str]:
    """Return (result, or None; why there is none)."""
    try:
        return read(*words, _request_timeout=SECONDS), ""
    except client.ApiException as error:
        why = {NOT_FOUND: "missing", FORBIDDEN: "this user may not read it"}
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
    digits = re.match(r"[\d.]*\d", tag)  # without a suffix, as in 3.7.15-fips
    if digits and Version(digits[0]).release < floor:
        return Finding(name, state, f"upgrade to {'.'.join(map(str, floor))} or later", missing=True)
    return Finding(name, state, "" if found.status.ready_replicas else f"kubectl -n {namespace} describe pod")


def _thing(subject: str, read: Callable[..., Any], name: str, namespace: str, fix: str) -> Finding:
    found, why = _looked(read, name, namespace)
    return Finding(subject, "there" if found else why, "" if found or why != "missing" else fix)


def _keys(read: Callable[..., Any], name: str, keys: set[str], namespace: str, fix: str) -> Finding:
    """Check a Secret or ConfigMap from which steps take variables, without showing its values."""
    found, why = _looked(read, name, namespace)
    if not found:
        return Finding(name, why, fix if why == "missing" else "")
    absent = sorted(keys - set(found.data or {}))
    return Finding(name, f"lacks {', '.join(absent)}" if absent else "present", fix if absent else "")


def _one_store(core: client.CoreV1Api, namespace: str) -> Iterator[Finding]:
    """Check that steps and KFP's launcher use the same store, as each reads what the other writes."""
    ours, _ = _looked(core.read_namespaced_config_map, pods.SETTINGS, namespace)
    theirs, _ = _looked(core.read_namespaced_config_map, LAUNCHER, namespace)
    if not ours or "endpoint" not in (ours.data or {}):
        return
    providers = yaml.safe_load(((theirs and theirs.data) or {}).get("providers", "")) or {}
    default = {"minio": {"default": {"endpoint": KFP_STORE}}}
    known = [
        provider["default"].get("endpoint")
        for provider in (default | providers).values()
        if provider.get("default")
    ]
    steps, launcher = _host(ours.data["endpoint"], namespace), {_host(e, namespace) for e in known if e}
    fix = f"set endpoint of ConfigMap {pods.SETTINGS} to Kubeflow Pipelines' store, or configure {LAUNCHER}"
    state = f"steps use {steps}, Kubeflow Pipelines {', '.join(sorted(launcher))}"
    yield Finding("one store", steps if steps in launcher else state, "" if steps in launcher else fix)


def _host(endpoint: str, namespace: str) -> str:
    """Return ``service.namespace:port`` of an endpoint, with or without the cluster's domain."""
    address = endpoint.partition("://")[2] or endpoint
    host, _, port = address.rstrip("/").partition(":")
    host = host.removesuffix(".cluster.local").removesuffix(".svc")
    return f"{host if '.' in host else f'{host}.{namespace}'}:{port or 443}"


def _pools(nodes: Sequence[client.V1Node], pools: Mapping[str, NodePool]) -> Iterator[Finding]:
    """Check that nodes of each pool exist, have its device, and have a taint."""
    for pool in pools.values():
        subject = f"pool {pool.name}"
        mine = [n for n in nodes if pool.selector.items() <= (n.metadata.labels or {}).items()]
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


def _katib(core: client.CoreV1Api, nodes: Sequence[client.V1Node], namespace: str) -> Iterator[Finding]:
    """Check what a search on many nodes needs: Katib, our algorithm and its image, the namespace."""
    read = client.ApiextensionsV1Api().read_custom_resource_definition
    found, why = _looked(read, "experiments.kubeflow.org")
    if not found:
        fix = "install Katib 0.19 for searches on many nodes; tune's own engine needs none"
        yield Finding("Katib", why, fix if why == "missing" else "")
        return
    yield Finding("Katib", ", ".join(v.name for v in found.spec.versions if v.served))
    yield _algorithm(core, nodes)
    home, why = _looked(core.read_namespace, namespace)
    state = (home.metadata.labels or {}).get(LABEL, "not set") if home else why
    fix = f"kubectl label --overwrite namespace {namespace} {LABEL}=enabled"
    shut = home is not None and state != "enabled"
    yield Finding(f"trials in {namespace}", f"metrics label {state}", fix if shut else "")


def _algorithm(core: client.CoreV1Api, nodes: Sequence[client.V1Node]) -> Finding:
    """Check that Katib knows our search algorithm, and that a node can start its service."""
    subject = f"algorithm {ALGORITHM}"
    config, why = _looked(core.read_namespaced_config_map, CONFIG, KATIB)
    if not config:
        fix = f"if Katib is elsewhere, give its namespace in manifests/katib/kustomization.yaml; {REGISTER}"
        return Finding(subject, f"{CONFIG} in {KATIB}: {why}", fix if why == "missing" else "")
    try:
        entries = yaml.safe_load((config.data or {})[KEY])["runtime"]["suggestions"]
        images = [entry.get("image") for entry in entries if entry["algorithmName"] == ALGORITHM]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        fix = f"fix it: kubectl -n {KATIB} edit configmap {CONFIG}; then {REGISTER}"
        return Finding(subject, f"{CONFIG} has no readable runtime.suggestions ({error!r:.60})", fix)
    if not images or not images[0]:
        return Finding(subject, "not registered" if not images else "registered without an image", REGISTER)
    lacking = [n.metadata.name for n in nodes if _open(n) and not _has(n, images[0])]
    if images[0].startswith("localhost/") and lacking:
        fix = (
            f"kind load docker-image {images[0]}, or load it into your nodes; else push it, set newName "
            f"and newTag in manifests/katib/kustomization.yaml, then {REGISTER}"
        )
        return Finding(subject, f"{images[0]} is not on {', '.join(lacking[:3])}, nor in a registry", fix)
    return Finding(subject, f"registered, {images[0]}")


def _open(node: client.V1Node) -> bool:
    """Tell whether a pod without tolerations may land there."""
    return not any(taint.effect in ("NoSchedule", "NoExecute") for taint in node.spec.taints or [])


def _has(node: client.V1Node, image: str) -> bool:
    """Tell whether the node lists ``image``, or has too many images to list."""
    listed = node.status.images or []
    return len(listed) >= MAX_IMAGES or any(image in (held.names or []) for held in listed)
