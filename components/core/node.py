"""The node that this pod stands on, from the Kubernetes API: its labels say which pool was really used."""

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
"""Bookkeeping waits no longer; a step without an answer is billed on the pool that it was sent to."""


def pod_name() -> str:
    """Return this pod's name, or the machine's outside one.

    A host's name is a pod's cut to 63 characters; KFP's retried pods have 65 and 66.
    """
    return os.environ.get("KFP_POD_NAME") or socket.gethostname()


def labels(account: Path = ACCOUNT, scheme: str = "https") -> dict[str, str]:
    """Return the labels of this pod's node; empty outside a cluster, and where they may not be read.

    KFP's account may read its own pods; nodes are in ``manifests/options/node-labels``.
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
    """Return the pool that a node of these labels belongs to: that with the most labels of all that match.

    ``planned`` is the pool that the pod was sent to: it stays where no label is known, where no pool matches,
    and where it is as good a match as any.
    """
    matching = [each for each in pools.values() if each.selector.items() <= node.items()] if node else []
    if not matching:
        return planned
    most = max(len(each.selector) for each in matching)
    names = [each.name for each in matching if len(each.selector) == most]
    return planned if planned in names else names[0]
