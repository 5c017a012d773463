"""Publish: a verified release in the store, with a card that says what it is; then it is in service."""

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from components.core import cli, escape, files, receipts, scorecards
from components.core.errors import DataError, GateRefused, StoreError
from components.core.receipts import Facts
from components.core.store import MANIFEST, Store, manifest_of, open_store
from components.ledger.book import Ledger
from components.publish import model_card, readers, registry, releases
from components.publish.model_card import Origin
from components.training import models

OURS = ("README.md", "ledger.json", "scorecard", MANIFEST)
"""What a release adds to a model; a model that was released before brings those of its last release."""


def publish(
    model: Path,
    base: Path,
    candidate: Path,
    reference: Path,
    verdict: Path,
    accept_receipt: Path,
    model_receipt: Path,
    data_receipt: Path,
    ledger: Path,
    base_licence: str,
    store: str,
    name: str,
    card: Path,
) -> Facts:
    """Release ``model``, which accept passed on, as ``releases/NAME/VERSION`` of ``store``.

    An adapter is merged into ``base``: one folder is what every server loads. ``candidate`` and ``reference``
    are accept's Scorecards; the one of the model passed on is released. ``base_licence`` empty is "unknown".
    Where ``MODEL_REGISTRY_URL`` is set, Kubeflow's Model Registry is given the release as well.

    Raises:
        GateRefused: the candidate was refused, and the reference is released already.
        DataError: the Scorecard is not this model's, or a receipt or the ledger is none.
    """
    accepted = _fact(accept_receipt, "accepted") == "True"
    chosen = candidate if accepted else reference
    scorecard = scorecards.read(chosen)
    if scorecard.model_digest != files.digest(model):
        raise DataError(f"{chosen} scores another model than {model}: give accept's model and Scorecards")
    target = open_store(store)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "release"
        assemble(model, base, folder)
        added = readers.add_older_keys(folder)
        digest = files.digest(folder)
        if not accepted:
            _refuse_if_released(target, name, digest)
        shape = _shape(folder, merged=models.is_adapter(model)) | {"read by": readers.describe(folder, added)}
        shutil.copytree(chosen, folder / "scorecard")
        shutil.copyfile(ledger / "ledger.json", folder / "ledger.json")
        text = model_card.markdown(
            name,
            _origin(model_receipt),
            base_licence,
            _origin(data_receipt),
            scorecard,
            read_ledger(ledger / "ledger.json"),
            verdict.read_text(),
            shape,
            manifest_of(folder),
        )
        (folder / "README.md").write_text(text)
        version = files.digest(folder)[:16]
        manifest = releases.release(target, name, folder, version, digest)
    with files.staged(card) as staging:
        staging.write_text(text)
    uri = target.uri(f"{releases.checked_name(name)}/{version}")
    told: dict[str, str | float] = {
        "base": _fact(model_receipt, "source"),
        "base_licence": base_licence or "unknown",
        "data_digest": _fact(data_receipt, "digest"),
        "model_digest": digest,
        "answer_loss": scorecard.answer_loss.mean,
    }
    return {
        "release": uri,
        "version": version,
        "bytes": sum(entry["bytes"] for entry in manifest["files"].values()),
        "files": len(manifest["files"]),
        "verified": True,
        "model_registry_version": _register(name, version, uri, told),
    }


def _register(name: str, version: str, uri: str, told: Mapping[str, str | float]) -> str | None:
    """Id of the version in Kubeflow's Model Registry; None where none is set, or it says no (on stderr).

    The release is in service by then, and is worth more than its entry in a catalogue.
    """
    if not (where := os.environ.get("MODEL_REGISTRY_URL")):
        return None
    try:
        return registry.register(where, name, version, uri, told)
    except StoreError as error:
        said = escape.terminal(escape.redacted(str(error)))
        print(f"publish: not in the model registry ({said}): check MODEL_REGISTRY_URL", file=sys.stderr)
        return None


def assemble(model: Path, base: Path, folder: Path) -> None:
    """The model as a server loads it: a copy, or an adapter merged into its base in the base's precision."""
    if models.is_adapter(model):
        merged, tokenizer = models.load(model, base)
        models.save(merged, tokenizer, base, folder, models.stored_dtype(base))
    else:
        models.check_folder(model)
        shutil.copytree(model, folder, ignore=shutil.ignore_patterns(*OURS))


def read_ledger(path: Path) -> Ledger:
    """The ledger of the run.

    Raises:
        FileNotFoundError, DataError: it is not there, or no ledger.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Ledger)
    except msgspec.DecodeError as error:
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
    return shape | {"adapter": "merged into the base" if merged else "none"}


def _origin(receipt: Path) -> Origin:
    return Origin(_fact(receipt, "source"), _fact(receipt, "digest"))


def _fact(receipt: Path, name: str) -> str:
    facts = receipts.read(receipt).facts
    if name not in facts:
        raise DataError(f"{receipt} has no fact {name!r}: it is another step's receipt; check the inputs")
    return str(facts[name])


if __name__ == "__main__":
    cli.main(publish)
