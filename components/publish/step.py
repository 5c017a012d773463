"""Publish: put a verified release with a model card in the store, then in service."""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from deepcuts.components.core import cli, escape, files, former_names, run_records, scorecards, step_facts
from deepcuts.components.core.errors import DataError, GateRefused, StoreError
from deepcuts.components.core.manifest import MANIFEST, manifest_of
from deepcuts.components.core.receipts import Facts
from deepcuts.components.core.scorecards import Scorecard
from deepcuts.components.core.step_facts import AcceptFacts, SourceFacts
from deepcuts.components.core.store import Store, open_store
from deepcuts.components.core.strict import MALFORMED
from deepcuts.components.gguf import convert
from deepcuts.components.ledger.ledger import Ledger
from deepcuts.components.publish import model_card, readers, registry, releases
from deepcuts.components.training import models

OURS = ("README.md", "ledger.json", "scorecard", MANIFEST, models.ADAPTER)
"""Files a release adds to a model; a model released before has those of its last release."""


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Evidence for a release."""

    candidate: Path
    """Scorecard of accept's candidate."""
    reference: Path
    """Scorecard of accept's reference."""
    verdict: Path
    """Accept's verdict, for the card."""
    accept_receipt: Path
    """Accept's receipt, which says which of the two was passed on."""
    model_receipt: Path
    """Fetch's receipt with the base's origin and digest."""
    data_receipt: Path
    """Fetch's receipt with the data's origin and digest."""


def publish(
    model: Path,
    base: Path,
    evidence: Evidence,
    training: str,
    run: str,
    ledger: Path,
    base_licence: str,
    store: str,
    name: str,
    card: Path,
) -> Facts:
    """Release ``model``, which accept passed on, as ``releases/NAME/VERSION`` in ``store``.

    An adapter is merged into ``base``, and also released alone in ``adapter/``. Of the Scorecards in
    ``evidence``, the one of the model passed on is released. With ``run``, the URI of an artifact of this
    task, evidence is named ``TASK/OUTPUT`` and read from the store. ``training`` is Markdown for the card
    from a search or a watcher; empty for none. An empty ``base_licence`` is shown as unknown. If
    ``MODEL_REGISTRY_URL`` is set, the release is also registered in Kubeflow's Model Registry.

    Raises:
        GateRefused: the candidate was refused, and the reference is released already.
        DataError: the Scorecard is of another model, or a receipt or the ledger is not valid.
    """
    target = open_store(store)
    with tempfile.TemporaryDirectory() as scratch:
        evidence = brought(evidence, run, Path(scratch) / "evidence") if run else evidence
        accepted = step_facts.of(AcceptFacts, evidence.accept_receipt).accepted
        origin, data = map(_source, (evidence.model_receipt, evidence.data_receipt))
        chosen = evidence.candidate if accepted else evidence.reference
        scorecard = _scorecard_of(model, chosen)
        folder = Path(scratch) / "release"
        added = assemble(model, base, folder)
        digest = files.digest(folder)
        if accepted:
            place_adapter(model, folder / models.ADAPTER, origin)
        else:
            _refuse_if_released(target, name, digest)
        shape = _shape(folder, merged=models.is_adapter(model)) | {"read by": readers.describe(folder, added)}
        shutil.copytree(chosen, folder / "scorecard")
        shutil.copyfile(ledger / "ledger.json", folder / "ledger.json")
        text = model_card.markdown(
            name,
            origin,
            base_licence,
            data,
            scorecard,
            read_ledger(ledger / "ledger.json"),
            evidence.verdict.read_text(),
            Path(training).read_text() if training else "",
            shape,
            manifest_of(folder),
        )
        (folder / "README.md").write_text(text)
        version = files.digest(folder)[:16]
        manifest = releases.release(target, name, folder, version, digest)
    with files.staged(card) as staging:
        staging.write_text(text)
    uri = target.uri(f"{releases.checked_name(name)}/{version}")
    registered = _register(name, version, uri, _properties(origin, data, base_licence, digest, scorecard))
    return _facts(uri, version, manifest) | {"model_registry_version": registered}


def brought(named: Evidence, run: str, folder: Path) -> Evidence:
    """Download the evidence named ``TASK/OUTPUT`` in ``named`` from the store of ``run``.

    Raises:
        DataError: the run left no such output.
        StoreError: the store is unreachable.
    """
    found = run_records.bring(run_records.read(run), msgspec.structs.asdict(named), folder)
    if missing := [f"{getattr(named, name)} ({name})" for name, path in found.items() if not path.exists()]:
        raise DataError(f"the run left no {', '.join(missing)}: run the pipeline again from its start")
    return Evidence(**found)


def _source(receipt: Path) -> SourceFacts:
    return step_facts.of(SourceFacts, receipt)


def _scorecard_of(model: Path, folder: Path) -> Scorecard:
    scorecard = scorecards.read(folder)
    if scorecard.model_digest != files.digest(model):
        raise DataError(f"{folder} scores another model than {model}: give accept's model and Scorecards")
    return scorecard


def _properties(
    base: SourceFacts, data: SourceFacts, base_licence: str, digest: str, scorecard: Scorecard
) -> dict[str, str | float]:
    return {
        "base": base.source,
        "base_licence": base_licence or "unknown",
        "data_digest": data.digest,
        "model_digest": digest,
        "completion_loss": scorecard.completion_loss.mean,
    }


def _facts(uri: str, version: str, manifest: Mapping[str, Any]) -> Facts:
    sizes = [entry["bytes"] for entry in manifest["files"].values()]
    return {
        "release": uri,
        "version": version,
        "bytes": sum(sizes),
        "files": len(sizes),
        "verified": True,
    }


def _register(name: str, version: str, uri: str, properties: Mapping[str, str | float]) -> str | None:
    """Register the release and return its id; None if no registry is set or it fails, reported on stderr.

    The release is already in service, which matters more than an entry in a catalogue.
    """
    if not (where := os.environ.get("MODEL_REGISTRY_URL")):
        return None
    try:
        return registry.register(where, name, version, uri, properties)
    except StoreError as error:
        said = escape.terminal(escape.redacted(str(error)))
        print(f"publish: not in the model registry ({said}): check MODEL_REGISTRY_URL", file=sys.stderr)
        return None


def assemble(model: Path, base: Path, folder: Path) -> list[str]:
    """Write the model for serving: a copy, or an adapter merged in its base's precision.

    Returns the names of the keys added for older programs.
    """
    if models.is_adapter(model):
        merged, tokenizer = models.load(model, base)
        models.save(merged, tokenizer, base, folder, models.stored_dtype(base))
    else:
        if convert.is_gguf(model):
            convert.check_file(model / convert.FILE)
        else:
            models.check_folder(model)
        shutil.copytree(model, folder, ignore=shutil.ignore_patterns(*OURS))
    return readers.add_older_keys(folder)


def place_adapter(model: Path, adapter: Path, base: SourceFacts) -> None:
    """Write ``adapter``, the adapter merged into ``model``, if any, with its base's origin and digest.

    An adapter of another base than the run's (a pruned one) keeps its own base.
    """
    given = model if models.is_adapter(model) else model / models.ADAPTER
    if not (given / "adapter_model.safetensors").exists():
        return
    shutil.copytree(given, adapter)
    if json.loads((adapter / "base.json").read_bytes()).get("digest") != base.digest:
        return
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_bytes())
    config["base_model_name_or_path"] = model_card.on_hub(base.source) or base.source
    path.write_text(json.dumps(config, indent=2, sort_keys=True))
    (adapter / "base.json").write_text(json.dumps({"digest": base.digest, "source": base.source}))


def read_ledger(path: Path) -> Ledger:
    """Read the ledger of the run.

    Raises:
        FileNotFoundError, DataError: the file does not exist, or is not a ledger.
    """
    try:
        return msgspec.json.decode(former_names.current(path.read_bytes()), type=Ledger)
    except MALFORMED as error:
        raise DataError(f"{path} is not a ledger ({error}): run ledger again") from error


def _refuse_if_released(store: Store, name: str, digest: str) -> None:
    for move in releases.in_service(releases.read(store, name)):
        if move.model_digest == digest:
            raise GateRefused(
                f"the candidate was refused, and the reference is release {move.version} of {name!r}: "
                "nothing new to publish; read accept's verdict"
            )


def _shape(folder: Path, merged: bool) -> dict[str, str]:
    config = msgspec.json.decode((folder / "config.json").read_bytes(), type=dict)
    keys = {
        "architecture": "model_type",
        "context, tokens": "max_position_embeddings",
        "layers": "num_hidden_layers",
    }
    shape = {label: str(config[key]) for label, key in keys.items() if key in config}
    merged = merged or (folder / models.ADAPTER).is_dir()
    return shape | {"adapter": "merged into the base, and separately in adapter/" if merged else "none"}


if __name__ == "__main__":
    cli.main(publish)
