"""Check every value of a run before anything runs: types, bounds, names, URIs, and combinations.

The steps check the same. Their lists are repeated here because those modules load torch, which a laptop that
only submits need not have; tests/pipelines/test_checks.py compares them.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote

from msgspec import Meta

from deepcuts.components.core import nodepools, strict
from deepcuts.components.core.bounds import (
    Count,
    NonNegative,
    OpenShare,
    Positive,
    PositiveShare,
    Seed,
    Share,
    ShareBelowOne,
    Whole,
)
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.scorecards import Metric
from deepcuts.components.curriculum.pacing import Pacing
from deepcuts.components.ingest import columns, formats, layouts
from deepcuts.components.ingest.splits import Splitter
from deepcuts.components.plan import placing
from deepcuts.components.publish.releases import checked_name
from deepcuts.components.rayjob.settings import Engine, RayCluster
from deepcuts.components.tune import space
from deepcuts.pipelines.run_file import pipeline_checks, places

SELECT = Literal["deduplicate-only", "random", "coverage", "target", "loss"]
DIFFICULTY_SIGNAL = Literal["none", "length", "loss", "compression", "diversity", "column", "random"]
FORMATS = Literal[
    "auto",
    "off",
    "gguf-q8_0",
    "gguf-q4_k_m",
    "w8a8",
    "smoothquant-w8a8",
    "fp8",
    "w4a16",
    "gptq-w4a16",
    "awq-w4a16",
    "nvfp4",
]
SERVE_ON = Literal["cpu", "gpu"]
OBJECTIVE = Literal["bytes", "latency", "throughput"]
PRUNE = Literal["magnitude", "width", "depth", "random-depth"]
DISTILL = Literal["forward-kl", "reverse-kl", "on-policy", "sequence", "none"]
POLICY = Literal[
    "res",
    "cara-threshold",
    "cara-cumulative",
    "ski-rental",
    "ski-rental-random",
    "page-hinkley",
    "adwin",
    "periodic",
    "never",
    "always",
]
KINDS: dict[str, Any] = {
    "valid_share": ShareBelowOne,
    "test_share": ShareBelowOne,
    "max_bad_share": Share,
    "fold_system": bool,
    "max_tokens": Count,
    "select_method": SELECT,
    "select_budget_tokens": Whole,
    "near_threshold": PositiveShare,
    "word_threshold": PositiveShare,
    "semantic_threshold": PositiveShare,
    "engine": Engine,
    "ray": RayCluster,
    "curriculum_signal": DIFFICULTY_SIGNAL,
    "curriculum_pacing": Pacing,
    "curriculum_phases": Count,
    "deadline_hours": NonNegative,
    "budget_usd": NonNegative,
    "spot": placing.Spot,
    "patience": Whole,
    "max_examples": Annotated[int, Meta(ge=2)],
    "margin_nats": Positive,
    "quantize_candidates": Annotated[list[FORMATS], Meta(min_length=1)],
    "quantize_objective": OBJECTIVE,
    "serve_on": SERVE_ON,
    "prune_method": PRUNE,
    "prune_amount": OpenShare,
    "heal_method": DISTILL,
    "method": DISTILL,
    "temperature": Positive,
    "cross_entropy_weight": Share,
    "hidden_weight": NonNegative,
    "cached_draws": Whole,
    "max_new_tokens": Count,
    "search_min_tokens": Count,
    "search_max_tokens": Count,
    "eta": Annotated[int, Meta(ge=2)],
    "brackets": Count,
    "configurations": Count,
    "parallel": Count,
    "trial_max_hours": Positive,
    "usd_per_unit": Positive,
    "predictions": Count,
    "period": Count,
    "horizon": Count,
    "memory": Count,
    "retraining_usd": NonNegative,
    "price_ratio": Positive,
    "policy": POLICY,
    "metric": Metric,
    "lease_hours": Positive,
    "seed": Seed,
    "data_seed": Seed,
}
"""Types of parameters by name, in all pipelines."""
SCHEMES = ("file", "s3", "minio", "hf", "example")
STORES = ("file", "s3", "minio")


def problems(values: Mapping[str, Any]) -> list[str]:
    """Return the problems of the values given, one line each; values of the wrong type are left out."""
    found = []
    for name, kind in KINDS.items():
        if name in values:
            found += _lines(strict.decode, kind, values[name], name)
    for name, value in values.items():
        if name.endswith("uri") and isinstance(value, str) and value:
            found += _lines(_uri, name, value)
    for check in CHECKS:
        found += _lines(check, values)
    return found


def _lines(check: Callable[..., object], *values: object) -> list[str]:
    try:
        check(*values)
    except (DataError, ValueError, FileNotFoundError) as error:
        return str(error).splitlines()
    except (TypeError, AttributeError):  # of the wrong type, which is reported elsewhere
        pass
    return []


def _uri(name: str, value: str) -> None:
    places.check(name, value)
    scheme, found, rest = value.partition("://")
    known = STORES if name == "store_uri" else SCHEMES
    if found and scheme not in known:
        raise ValueError(f"{name} {value!r}: unknown scheme: give a path or {', '.join(known)}://")
    if scheme == "hf":
        _hub(name, value, rest)
    if scheme in ("s3", "minio") and not rest.strip("/"):
        raise ValueError(f"{name} {value!r}: no bucket: give {scheme}://bucket/prefix")
    if scheme == "file" and not rest.startswith("/"):
        raise ValueError(f"{name} {value!r}: give file:///absolute/path")


def _hub(name: str, value: str, rest: str) -> None:
    kind = "datasets/" if name == "data_uri" else ""
    if not re.fullmatch(r"(datasets/[\w.-]+/[\w.-]+|(?!datasets/)[\w.-]+/[\w.-]+)(@[\w./-]+)?", rest):
        raise ValueError(f"{name} {value!r}: give hf://{kind}org/name, or hf://{kind}org/name@commit")
    if rest.startswith("datasets/") != bool(kind):
        raise ValueError(f"{name} {value!r}: {'data sets are' if kind else 'models are'} hf://{kind}org/name")


def _format(values: Mapping[str, Any]) -> None:
    if values.get("format", "auto") != "auto":
        formats.choose(values["format"], [])


def _columns(values: Mapping[str, Any]) -> None:
    columns.check(values.get("columns") or {})
    formats.check_mapping(values.get("format", "auto"), values.get("columns") or {})


def _shares(values: Mapping[str, Any]) -> None:
    shares = values.get("valid_share", 0.0), values.get("test_share", 0.0)
    if all(isinstance(share, int | float) and 0 <= share < 1 for share in shares):
        Splitter((), *shares, seed=0)


def _layout(values: Mapping[str, Any]) -> None:
    """Check local data: a configuration to choose, splits without rows."""
    path = _local(values.get("data_uri"))
    if path is None:
        return
    config = values.get("data_config", values.get("config"))
    given = layouts.find(path, config if isinstance(config, str) else "").splits
    judged = {"test": "judge the model"}
    if "search_min_tokens" in values:
        judged["valid"] = "compare trials"
    empty = [split for split in judged if values.get(f"{split}_share") == 0 and split not in given]
    lines = [f"{s}_share 0 and no {s} file in {path}: nothing to {judged[s]} by; raise it" for s in empty]
    if lines:
        raise ValueError("\n".join(lines))


def _select(values: Mapping[str, Any]) -> None:
    method, budget = values.get("select_method", "random"), values.get("select_budget_tokens", 0)
    free, paid = method == "deduplicate-only", method in ("coverage", "target", "loss")
    if (budget and free) or (not budget and paid):
        raise ValueError(
            f"select_method {method} with select_budget_tokens {budget}: give 0 to deduplicate-only, "
            "at least 1 to the others; random takes both"
        )


def _embedder(values: Mapping[str, Any]) -> None:
    compares = values.get("semantic_threshold", 1) < 1 or values.get("select_method") in (
        "coverage",
        "target",
    )
    if values.get("embedder_uri") and not compares:
        raise ValueError(
            f"embedder_uri {values['embedder_uri']!r}: nothing is compared by it: set semantic_threshold "
            "below 1, or select_method to coverage or target"
        )


def _measures(values: Mapping[str, Any]) -> None:
    given = values.get("measures", [])
    if not isinstance(given, list):  # which is reported already
        return
    own = [measure for measure in given if not re.match("lm-eval:.|general(:.|$)", str(measure))]
    strict.decode(list[Metric], own, "measures")
    if len(set(given)) < len(given) or sum(str(measure).startswith("general") for measure in given) > 1:
        raise ValueError(f"measures {given}: give each once, and one general text")


def _candidates(values: Mapping[str, Any]) -> None:
    given = values.get("quantize_candidates", [])
    if len(set(given)) < len(given):
        raise ValueError(f"quantize_candidates {given}: give each format once")
    alone = {"auto", "off"} & set(given)
    if alone and len(given) > 1:
        raise ValueError(f"quantize_candidates {given}: {min(alone)} must be alone: give it, or formats")
    if len({str(name).startswith("gguf") for name in given}) > 1:
        raise ValueError(
            f"quantize_candidates {given}: gguf formats run in llama.cpp: give them, or the others"
        )


def _pool(values: Mapping[str, Any]) -> None:
    """Check the pool to train on against the run's own."""
    given = values.get("nodepools")
    if "spot" in values and isinstance(values.get("pool"), str) and given:
        known = nodepools.parse(given)
        placing.barred(known, placing.Wish(values["pool"], values["spot"]))


def _release(values: Mapping[str, Any]) -> None:
    if "release_name" in values:
        checked_name(values["release_name"])


def _space(values: Mapping[str, Any]) -> None:
    if "space" in values:
        space.check(strict.decode(space.Space, values["space"], "space"))


def _local(uri: object) -> Path | None:
    """Return the existing path of a ``file://`` URI; others are checked when they are fetched."""
    if not isinstance(uri, str) or not uri.startswith("file://"):
        return None
    path = Path(unquote(uri.removeprefix("file://")))
    return path if path.exists() else None


CHECKS: tuple[Callable[[Mapping[str, Any]], None], ...] = (
    _format,
    _columns,
    _shares,
    _layout,
    _select,
    _embedder,
    _measures,
    _candidates,
    _pool,
    _release,
    _space,
    *pipeline_checks.CHECKS,
)
