"""Katib's custom resources, made of its typed models' schemas.

Katib's own definitions keep every field unchecked; with these a field that Katib does not know, or one of
another type, is refused.
"""

from typing import Any

from kubeflow_katib_api import models

Json = dict[str, Any]
KINDS = {
    "Experiment": models.V1beta1Experiment,
    "Trial": models.V1beta1Trial,
    "Suggestion": models.V1beta1Suggestion,
}


def structural(schema: Json, definitions: Json) -> Json:
    """A schema of pydantic's as Kubernetes wants it: no references, no alternatives, no titles."""
    if "$ref" in schema:
        return structural(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    kinds = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
    if kinds:
        numbers = {kind.get("type") for kind in kinds} == {"number", "integer"}
        return {"type": "number"} if numbers else structural(kinds[0], definitions)
    match schema.get("type"):
        case "object" if "properties" in schema:
            inside = {n: structural(s, definitions) for n, s in schema["properties"].items()}
            return {"type": "object", "properties": inside}
        case "object" if isinstance(schema.get("additionalProperties"), dict):
            return {
                "type": "object",
                "additionalProperties": structural(schema["additionalProperties"], definitions),
            }
        case "array":
            return {"type": "array", "items": structural(schema["items"], definitions)}
        case "string" | "integer" | "boolean" | "number":
            return {"type": schema["type"]}
    return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def definition(kind: str) -> Json:
    schema = KINDS[kind].model_json_schema(by_alias=True)
    made = structural(schema, schema["$defs"])
    made["properties"]["metadata"] = {"type": "object"}
    plural = f"{kind.lower()}s"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.kubeflow.org"},
        "spec": {
            "group": "kubeflow.org",
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [
                {
                    "name": "v1beta1",
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": made},
                }
            ],
        },
    }
