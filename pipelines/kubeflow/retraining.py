"""Write the three CronJobs of scheduled retraining: ``python -m deepcuts.pipelines.kubeflow.retraining``.

They use the same components, placement and security as every other Job (``jobs.py``), so that they get a
step's new flags, too; tests/manifests/test_retrain.py fails if a manifest differs from this output. The
comments at the top of manifests/base/retrain.yaml explain how the three work together; they are kept.
"""

import json
import sys
from pathlib import Path

import yaml

from deepcuts.components.accept.component import accept
from deepcuts.components.core import pods
from deepcuts.components.evaluate.component import evaluate
from deepcuts.components.fetch.component import fetch_data
from deepcuts.components.finetune.component import finetune
from deepcuts.components.publish.component import publish
from deepcuts.components.retrain.component import retrain
from deepcuts.components.select.component import select
from deepcuts.pipelines import pools
from deepcuts.pipelines.kubeflow.jobs import CARRY, Json
from deepcuts.pipelines.kubeflow.links import BUCKET, NAME, SMALL, STORE, TOKEN, WORTH, Anchored, Link
from deepcuts.pipelines.placement import Size

LARGE = Size(6, "24Gi", max_hours=24)
MARGIN_NATS = 0.03
WEEKLY, NEVER = "30 4 * * 1", "0 0 31 2 *"
"""Monday 4:30 UTC, and a date that does not exist, for a template from which the previous Job starts one."""


SCORING: Json = {
    "store": STORE,
    "measures": ["completion_loss"],
    "max_examples": 500,
    "max_new_tokens": 64,
    "seed": 0,
}
DECIDING: Json = {
    "store": STORE,
    "service": NAME,
    "window": "$(JOB_NAME)",
    "run": "$(JOB_NAME)",
    "metric": "completion_loss",
    "policy": "res",
    "usd_per_unit": 0.001,
    "predictions": 10_000,
    "retraining_usd": 0.0,
    "ledger_uri": f"file://{CARRY}/model/ledger.json",
    "price_ratio": 1.0,
    "period": 4,
    "horizon": 5,
    "memory": 52,
    "lease_hours": 48.0,
    "seed": 0,
}
FETCHING: Json = {"uri": f"{BUCKET}/retrain/corpus", "config": ""}
SELECTING: Json = {
    "method": "random",
    "budget_tokens": 0,
    "near_threshold": 0.8,
    "word_threshold": 1.0,
    "semantic_threshold": 1.0,
    "embedder_uri": "",
    "engine": "local",
    "ray": {},
    "nodepools": {"pools": []},
    "store": STORE,
    "seed": 0,
}


def decide() -> Json:
    """Return the first Job: score the model in service on the week's sample, decide, and select."""
    link = Link("retrain", "cpu", SMALL, first=True)
    owned = f"{BUCKET}/retrain"
    containers = [
        link.pull("ops", "latest", "pull-before"),
        link.carry("get", "ops", ["window.jsonl", "labels.json"], owned),
        link.step(
            "evaluate",
            evaluate,
            {
                "base": "model",
                "model": "model",
                "split": "window.jsonl",
                "labels": "labels.json",
                "scorecard": "before",
            },
            "evaluate-before",
            SCORING,
        ),
        link.step(
            "decide",
            retrain,
            {
                "scorecard": "before",
                "decision": "decision.json",
                "report": "decision.md",
                "retrain": "retrain",
            },
            "retrain",
            DECIDING,
        ),
        link.step("fetch", fetch_data, {"data": "corpus"}, "fetch", FETCHING, worth=True),
        link.step(
            "select",
            select,
            {
                "base": "model",
                "corpus": "corpus/train.jsonl",
                "valid": "corpus/valid.jsonl",
                "test": "window.jsonl",
                "cut": "train.jsonl",
                "dropped": "dropped.jsonl",
                "report": "select.md",
            },
            "select",
            SELECTING,
            worth=True,
        ),
        link.carry("put", "ops", DECIDED),
        link.start("retrain-train", "train", "pull-before", worth=True),
    ]
    return link.cronjob(containers, {"token": TOKEN}, "deepcuts-retrain", WEEKLY)


DECIDED = (
    *("pull-before.json", "window.jsonl", "labels.json", "before", "evaluate-before.json"),
    *("decision.json", "decision.md", "retrain.json", "fetch.json", "train.jsonl", "dropped.jsonl"),
    *("select.md", "select.json", "corpus/valid.jsonl"),
)


def train() -> Json:
    """Return the second Job: train, nearly all in one image, so that a GPU node pulls few."""
    link = Link("retrain-train", "gpu", LARGE)
    containers = [
        link.carry("get", "train", ["train.jsonl", "valid.jsonl"]),
        link.pull("train", "$(RELEASE)", "pull-train"),
        link.step(
            "finetune",
            finetune,
            {
                "base": "model",
                "train": "train.jsonl",
                "valid": "valid.jsonl",
                "model": "candidate",
                "curve": "curve.jsonl",
            },
            "finetune",
            {"store": STORE, "recipe": {}},
            large=True,
        ),
        link.carry("put", "train", ["pull-train.json", "candidate", "curve.jsonl", "finetune.json"]),
        link.start("retrain-judge", "judge", "pull-train"),
    ]
    return link.cronjob(containers, {"token": TOKEN}, "deepcuts-retrain", NEVER)


GOT = (
    *("pull-before.json", "evaluate-before.json", "retrain.json", "fetch.json", "select.json"),
    *("pull-train.json", "finetune.json", "before", "window.jsonl", "labels.json", "candidate"),
    "curve.jsonl",
)
JUDGED = ("after", "evaluate-after.json", "accept.json", "verdict.md", "ledger", "ledger.md", "report.html")
RECEIPTS = (
    *("pull-before", "evaluate-before", "retrain", "fetch", "select", "pull-train", "finetune", "pull"),
    *("evaluate-after", "accept"),
)
"""All three Jobs, in order."""


def judge() -> Json:
    """Return the last Job: score, compare, write the ledger, and release the model if it is no worse."""
    link = Link("retrain-judge", "cpu", SMALL)
    passed = {"candidate": "after", "reference": "before", "verdict": "verdict.md"}
    counted = {name.replace("-", "_"): f"{CARRY}/{name}.json" for name in RECEIPTS}
    bill = ["python", "-m", "deepcuts.components.ledger.step", "--run", "", "--receipts", json.dumps(counted)]
    bill += ["--scorecards", json.dumps({"before": f"{CARRY}/before", "after": f"{CARRY}/after"})]
    bill += ["--curves", json.dumps({"finetune": f"{CARRY}/curve.jsonl"}), "--plans", "{}", "--studies", ""]
    bill += ["--nodepools", "@/nodepools/nodepools.yaml", "--margin-nats", str(MARGIN_NATS)]
    bill += ["--ledger", f"{CARRY}/ledger", "--summary", f"{CARRY}/ledger.md"]
    bill += ["--report", f"{CARRY}/report.html", "--receipt", f"{CARRY}/ledger.json"]
    containers = [
        link.carry("get", "ops", GOT),
        link.pull("ops", "$(RELEASE)", "pull"),
        link.step(
            "evaluate",
            evaluate,
            {
                "base": "model",
                "model": "candidate",
                "split": "window.jsonl",
                "labels": "labels.json",
                "scorecard": "after",
            },
            "evaluate-after",
            SCORING,
        ),
        link.step(
            "accept",
            accept,
            passed
            | {
                "candidate_model": "candidate",
                "reference_model": "model",
                "accepted": "accepted",
                "scorecard": "scorecard",
            },
            "accept",
            {"metric": "completion_loss", "margin": MARGIN_NATS, "seed": 0},
        ),
        link.run("ledger", "ops", bill, mounts=[{"name": "nodepools", "mountPath": "/nodepools"}]),
        link.carry("put", "ops", JUDGED),
        link.step(
            "publish",
            publish,
            passed
            | {
                "model": "accepted",
                "base": "model",
                "accept_receipt": "accept.json",
                "model_receipt": "pull.json",
                "data_receipt": "fetch.json",
                "ledger": "ledger",
                "card": "README.md",
            },
            "publish",
            {"base_licence": "", "store": STORE, "name": NAME},
        ),
    ]
    volumes = {"nodepools": {"configMap": {"name": "deepcuts-nodepools"}}}
    return link.cronjob(containers, volumes, pods.ACCOUNT, NEVER)


FILES = {"retrain.yaml": decide, "retrain-train.yaml": train, "retrain-judge.yaml": judge}


def text(name: str, comments: str) -> str:
    """Return the manifest ``name`` below its ``comments``."""
    made = FILES[name]()
    first = made["spec"]["jobTemplate"]["spec"]["template"]["spec"]["initContainers"][0]
    shared = {"labels": made["metadata"]["labels"], "env": first["env"], "locked": first["securityContext"]}
    shared |= {"size": first["resources"], "mounts": first["volumeMounts"], "worth": WORTH}
    Anchored.shared = {id(value): name for name, value in shared.items()}
    return comments + yaml.dump(made, Dumper=Anchored, sort_keys=False, width=110)


def comments_of(path: Path) -> str:
    """Return the comments at the top of a manifest."""
    lines = path.read_text().splitlines(keepends=True)
    return "".join(lines[: next(at for at, line in enumerate(lines) if not line.startswith("#"))])


def main(folder: Path) -> None:
    """Rewrite the manifests in ``folder``, keeping their comments."""
    for name in FILES:
        path = folder / name
        path.write_text(text(name, comments_of(path)))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else pools.NODEPOOLS.parent)
