"""Read the labels of this pod's node from the Kubernetes API; they show which pool was really used."""

import json
import os
import socket
import ssl
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepcuts.components.core.nodepools import NodePool

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
SECONDS = 3.0
"""Longest wait for an answer; without one, a step is billed on the pool it was sent to."""


def pod_name() -> str:
    """Return this pod's name, or the machine's outside one.

    A host's name is a pod's cut to 63 characters; KFP's retried pods have 65 and 66.
    """
    return os.environ.get("KFP_POD_NAME") or socket.gethostname()


def labels(account: Path = ACCOUNT, scheme: str = "https") -> dict[str, str]:
    """Return the labels of this pod's node; empty outside a cluster, or if they may not be read.

    KFP's service account may read its pods; ``manifests/options/node-labels`` lets it read nodes.
    """
    host = os.environ.get("KUBERNETES_SERVICE_HOST")
    if not host:
        return {}
    server = f"{scheme}://{host}:{os.environ.get('KUBERNETES_SERVICE_PORT', '443')}"
    try:
        namespace = (account / "namespace").read_text().strip()
        found = _get(server, f"namespaces/{namespace}/pods/{pod_name()}", account)
        node = _get(server, f"nodes/{found['spec']['nodeName']}", account)
        return {str(key): str(value) for key, value in node["metadata"]["labels"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _get(server: str, path: str, account: Path) -> Any:
    context = None
    if server.startswith("https:"):
        context = ssl.create_default_context(cafile=str(account / "ca.crt"))
    token = (account / "token").read_text().strip()
    address = f"{server}/api/v1/{urllib.parse.quote(path)}"
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=SECONDS, context=context) as answer:
        return json.load(answer)


def pool(node: Mapping[str, str], planned: str, pools: Mapping[str, NodePool]) -> str:
    """Return the pool that a node with these labels belongs to: of all that match, the one with most labels.

    ``planned``, the pool the pod was sent to, is kept if no labels are known, if no pool matches, or if it is
    among the best matches.
    """
    matching = [each for each in pools.values() if each.selector.items() <= node.items()] if node else []
    if not matching:
        return planned
    most = max(len(each.selector) for each in matching)
    names = [each.name for each in matching if len(each.selector) == most]
    return planned if planned in names else names[0]
