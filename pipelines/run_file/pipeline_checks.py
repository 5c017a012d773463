"""Check values of single pipelines before anything runs, with the code of their steps."""

import difflib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepcuts.components.core import nodepools, recipe, strict
from deepcuts.components.core.recipe import Recipe
from deepcuts.components.distill import distill_config
from deepcuts.components.distill.distill_config import DistillConfig
from deepcuts.components.rayjob.settings import RayCluster
from deepcuts.components.retrain import names
from deepcuts.components.tune import checks as search_checks
from deepcuts.components.tune.space import Space
from deepcuts.components.tune_katib import algorithms
from deepcuts.pipelines.run_file import places

MAX_LAYERS = 10_000
"""Number of layers for a student whose config.json is not on this machine."""
NAMESPACE = re.compile(r"([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?")
ADDRESS = re.compile(r"[^\s:/]+:\d{1,5}")


def student(values: Mapping[str, Any]) -> None:
    """Check the origin and the settings of a distillation's student."""
    if "layers" not in values:
        return
    layers, config = values["layers"], values.get("config") or {}
    distill_config.only_one(layers, config)
    base = _config_of(values.get("student_uri"))
    if not config:
        count = base.get("num_hidden_layers", MAX_LAYERS)
        distill_config.kept_layers(layers, count if isinstance(count, int) else MAX_LAYERS)
    if "vocab_size" in config:
        raise ValueError("config.vocab_size: the student must keep the vocabulary: remove it")
    for key in config.keys() - base.keys():  # defaults may be left out, so only likely typos are reported
        if difflib.get_close_matches(key, base, n=1, cutoff=strict.NEAR):
            raise ValueError(strict.unknown_key("config", key, base))
    if values.get("method") not in distill_config.METHODS:  # which is reported already
        return
    given = {name: values[name] for name in DistillConfig.__struct_fields__ if name in values}
    teaching = DistillConfig(**given)
    for name in ("hidden_weight", "cached_draws"):
        if values[name] and name not in teaching.used():
            raise ValueError(f"{name} {values[name]} with method {teaching.method}: not used; set it to 0")


def _config_of(uri: object) -> dict[str, Any]:
    """Return the config.json of a local model; empty for others and damaged ones."""
    path = places.local(uri) if isinstance(uri, str) else None
    try:
        found = json.loads((path / "config.json").read_bytes()) if path else {}
    except (OSError, ValueError):  # reported when the folder is checked
        return {}
    return found if isinstance(found, dict) else {}


def search(values: Mapping[str, Any]) -> None:
    """Check a search: its rungs, its space against the recipe, and Katib's limits."""
    if "search_min_tokens" not in values:
        return
    least, most = values["search_min_tokens"], values["search_max_tokens"]
    if least < 1 or values["eta"] < 2:  # which is reported already
        return
    if least > most:
        raise ValueError(f"search_min_tokens {least} is above search_max_tokens {most}: lower it")
    search_checks.planned(least, most, values["eta"], values["brackets"], values["configurations"])
    space = strict.decode(Space, strict.current_names(Recipe, values["space"], "space"), "space")
    search_checks.check_space(recipe.parse(values.get("recipe") or {}), space, least)
    if "algorithm" in values:
        algorithms.check(values["algorithm"], space)


def trials(values: Mapping[str, Any]) -> None:
    """Check where the trials of a search run."""
    if "trial_image" not in values:
        return
    found = []
    if not values["trial_image"].strip() or re.search(r"\s", values["trial_image"]):
        found.append(f"trial_image {values['trial_image']!r}: give an image, registry/name:tag")
    if not NAMESPACE.fullmatch(values["namespace"]):
        found.append(f"namespace {values['namespace']!r}: give lower-case letters, digits and dashes")
    if not ADDRESS.fullmatch(values["db_manager"]):
        found.append(f"db_manager {values['db_manager']!r}: give host:port, katib-db-manager.kubeflow:6789")
    if found:
        raise ValueError("\n".join(found))


def retraining(values: Mapping[str, Any]) -> None:
    """Check the settings of a retraining decision: names, metric, costs."""
    if "service" not in values:
        return
    found = []
    for name in ("service", *(["window"] if values.get("window") else [])):
        try:
            names.named(name, values[name])
        except ValueError as error:
            found.append(str(error))
    metric, measures = values.get("metric"), values.get("measures", [])
    if metric not in ("completion_loss", *measures):
        found.append(f"metric {metric} is not measured: add it to measures")
    if values.get("retraining_usd") == 0 and not values.get("ledger_uri"):
        found.append("retraining_usd is 0 and ledger_uri is empty: give one of them")
    if found:
        raise ValueError("\n".join(found))


def folders(values: Mapping[str, Any]) -> None:
    """Check that local models are model folders, and that the store is a folder."""
    found = []
    for name in ("base_uri", "teacher_uri", "student_uri", "service_uri"):
        path = _there(values.get(name))
        if path and not (path / "config.json").is_file():
            found.append(f"{name}: no config.json in {path}: give a Hugging Face model folder")
    store = _there(values.get("store_uri"))
    if store and not store.is_dir():
        found.append(f"store_uri: {store} is a file: give a folder")
    if found:
        raise ValueError("\n".join(found))


def _there(uri: object) -> Path | None:
    path = places.local(uri) if isinstance(uri, str) else None
    return path if path and path.exists() else None


def engine(values: Mapping[str, Any]) -> None:
    """Check the pool of a RayJob."""
    if values.get("engine") != "ray":
        return
    known = nodepools.parse(values["nodepools"]) if values.get("nodepools") else {}
    cluster = strict.decode(RayCluster, values.get("ray", {}), "ray")
    if known and cluster.pool not in known:
        raise ValueError(
            f"ray.pool {cluster.pool!r} is not among nodepools ({', '.join(known)}): add it there"
        )


CHECKS = (student, search, trials, retraining, folders, engine)
