"""The scheduled decision of manifests/base/retrain.yaml, container by container, on a store and a model."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.core import carry, cli
from components.core.store import open_store
from tests.conftest import ROOT
from tests.training import tiny

(CRON,) = yaml.safe_load_all((ROOT / "manifests" / "base" / "retrain.yaml").read_text())


@pytest.fixture
def place(s3_url, tmp_path):
    """The bucket as the manifest's owner fills it."""
    tiny.base(tmp_path / "model")
    tiny.write_sums(tmp_path / "window.jsonl", 8)
    (tmp_path / "labels.json").write_text("[]")
    for name in ("model", "window.jsonl", "labels.json"):
        carry.put(f"{s3_url}/retrain/{name}", tmp_path / name)
    bill(s3_url, 12.5)
    return s3_url


def bill(place: str, usd: float) -> None:
    """The ledger of the last training."""
    open_store(place).put_bytes(
        "retrain/ledger.json", json.dumps({"total": {"usd": usd, "unknown": 0}}).encode()
    )


def fired(place: str, name: str, folder: Path) -> list[int]:
    """The exit codes of the pod of the Job ``name``, whose containers come one after the other."""

    def read(words: list[str]) -> list[str]:
        told = [word.replace("$(JOB_NAME)", name).replace("s3://deepcuts", place) for word in words]
        return [word.replace("/carry/", f"{folder}/").replace("/scratch/", f"{folder}/") for word in told]

    pod: dict[str, Any] = CRON["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    codes = []
    for container in [*pod["initContainers"], *pod["containers"]]:
        _, _, module, *words = read([*container["command"], *container.get("args", [])])
        if module == "components.core.carry":
            codes.append(carry.main(words))
        else:
            step = getattr(importlib.import_module(module), module.split(".")[1])
            codes.append(cli.run(step, words))
        if codes[-1]:
            break
    return codes


def decision(place: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(open_store(place).get_bytes(f"retrain/decisions/{name}/decision.json"))
    return found


def test_windows_follow_each_other_and_each_is_weighed_against_the_newest_ledger(place, tmp_path):
    assert fired(place, "retrain-29654910", tmp_path / "1") == [0, 0, 0, 0]
    first = decision(place, "retrain-29654910")
    assert first["cost_usd"] == 12.5 and first["retrain"] is False
    assert first["seen"]["usd_lost"] == pytest.approx(first["seen"]["loss"] * 0.001 * 10_000)
    bill(place, 40.0)
    assert fired(place, "retrain-29664990", tmp_path / "2") == [0, 0, 0, 0]
    second = decision(place, "retrain-29664990")
    assert second["cost_usd"] == 40.0 and len(second["cycle_usd"]) == 2


def test_without_a_ledger_the_decision_fails_for_good_and_says_what_is_missing(place, tmp_path, capsys):
    open_store(place).delete("retrain/ledger.json")
    assert fired(place, "retrain-29654910", tmp_path) == [0, 0, 3]
    assert "retrain/ledger.json" in capsys.readouterr().err
