"""Register a release in Kubeflow's Model Registry, which only points to the store."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import urllib3

from deepcuts.components.core.errors import StoreError

API = "api/model_registry/v1alpha3"
"""Path of Kubeflow Model Registry 0.2 to 0.3."""
TIMEOUT_SECONDS = 10.0


def register(url: str, name: str, version: str, uri: str, properties: Mapping[str, str | float]) -> str:
    """Create model ``name``, its ``version`` and an artifact at ``uri``, each if it is missing.

    ``url`` is the registry's (http://model-registry-service:8080). Returns the version's id there.

    Raises:
        StoreError: the registry is unreachable or refuses.
    """
    custom = {key: _property(value) for key, value in properties.items()}
    model = _find_or_make(url, "registered_model", "registered_models", {"name": name})
    body = {"name": version, "registeredModelId": model, "customProperties": custom}
    made = _find_or_make(url, "model_version", f"registered_models/{model}/versions", body, parent=model)
    artifact = {
        "artifactType": "model-artifact",
        "name": name,
        "uri": uri,
        "modelFormatName": "safetensors",
    }
    _find_or_make(url, "model_artifact", f"model_versions/{made}/artifacts", artifact, parent=made)
    return made


def _property(value: str | float) -> dict[str, str | float]:
    if isinstance(value, str):
        return {"metadataType": "MetadataStringValue", "string_value": value}
    return {"metadataType": "MetadataDoubleValue", "double_value": float(value)}


def _find_or_make(url: str, one: str, many: str, body: Mapping[str, Any], parent: str = "") -> str:
    """Return the id of the entity of that name below ``parent``, creating it if needed."""
    where = {"name": body["name"]} | ({"parentResourceId": parent} if parent else {})
    found = _ask(url, "GET", f"{one}?{urlencode(where)}")
    made = found or _ask(url, "POST", many, body)
    if not made or "id" not in made:
        raise StoreError(f"model registry {url}: {many} returned no id: is this a Kubeflow Model Registry?")
    return str(made["id"])


def _ask(url: str, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """Send a request and return the response; None for 404."""
    address = f"{url.rstrip('/')}/{API}/{path}"
    try:
        answer = urllib3.request(
            method, address, json=body, timeout=TIMEOUT_SECONDS, retries=urllib3.Retry(2, redirect=0)
        )
        if answer.status == 404 and method == "GET":
            return None
        if answer.status >= 300:
            raise StoreError(f"{method} {address} answered {answer.status}: {answer.data[:200]!r}")
        answered = json.loads(answer.data)
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        raise StoreError(f"{method} {address}: {error}") from error
    return answered if isinstance(answered, dict) else None
