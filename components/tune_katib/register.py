"""Register our suggestion service in Katib's configuration, as ``manifests/katib`` does.

Run ``python -m deepcuts.components.tune_katib.register ENTRY`` in a pod of Katib's namespace; IMAGE is the
service's image.
"""

import os
import sys
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client

from deepcuts.components.core import escape, yaml_files
from deepcuts.components.core.api_server import connect

CONFIG, KEY = "katib-config", "katib-config.yaml"
FIXES = {404: "install Katib 0.19 in this namespace first", 409: "it changed meanwhile: try again"}


def registered(config: str, entry: dict[str, Any]) -> str:
    """Return Katib's configuration with ``entry``, replacing one for the same algorithm.

    Raises:
        ValueError: it is not the configuration of Katib 0.19.
    """
    value = yaml.safe_load(config)
    try:
        suggestions = value["runtime"]["suggestions"]
        names = [suggestion["algorithmName"] for suggestion in suggestions]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{CONFIG} has no runtime.suggestions with algorithmName: it is not Katib 0.19's"
        ) from error
    if entry in suggestions:
        return config
    place = names.index(entry["algorithmName"]) if entry["algorithmName"] in names else len(names)
    value["runtime"]["suggestions"] = [*suggestions[:place], entry, *suggestions[place + 1 :]]
    return yaml.safe_dump(value, sort_keys=False)


def main(path: Path, image: str) -> int:
    """Run the command; return its exit code. Errors go to stderr."""
    entry = yaml_files.load(path)
    assert isinstance(entry, dict)
    entry |= {"image": image}
    try:
        namespace, api = connect(""), client.CoreV1Api()
        found = api.read_namespaced_config_map(CONFIG, namespace)
        config = registered(found.data.get(KEY, ""), entry)
        if config == found.data.get(KEY):
            print(f"{CONFIG} in {namespace} has {entry['algorithmName']} already")
            return 0
        found.data[KEY] = config
        api.replace_namespaced_config_map(CONFIG, namespace, found)  # refused if it was changed meanwhile
    except ValueError as error:
        print(escape.terminal(f"register: {error}"), file=sys.stderr)
        return 2
    except client.ApiException as error:
        print(f"register: {CONFIG}: {FIXES.get(error.status, error.reason)}", file=sys.stderr)
        return 4
    print(f"{CONFIG} in {namespace}: {entry['algorithmName']} is {image}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), os.environ["IMAGE"]))
