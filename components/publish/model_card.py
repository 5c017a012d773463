"""Model card: what a release is, how it was made, what it cost, and what was not checked."""

from collections.abc import Mapping

from huggingface_hub import ModelCard, ModelCardData

from deepcuts.components.core import escape
from deepcuts.components.core.manifest import Manifest
from deepcuts.components.core.markdown import table
from deepcuts.components.core.scorecards import Interval, Scorecard
from deepcuts.components.core.step_facts import SourceFacts
from deepcuts.components.ledger.formatting import cost, money, short, size
from deepcuts.components.ledger.ledger import Ledger

UNKNOWN_LICENCE = "unknown: read the base model's terms before you use or pass on this one"


def markdown(
    name: str,
    base: SourceFacts,
    base_licence: str,
    data: SourceFacts,
    scorecard: Scorecard,
    ledger: Ledger,
    verdict: str,
    training: str,
    shape: Mapping[str, str],
    manifest: Manifest,
) -> str:
    """Return the card with metadata for the Hub; untrusted text is on one line, as code."""
    total = sum(entry["bytes"] for entry in manifest["files"].values())
    text = "\n".join(
        [
            f"# {name}",
            "",
            *_table(
                "model",
                {**{key: escape.markdown(value) for key, value in shape.items()}, "bytes": size(total)},
            ),
            "## Made of",
            "",
            *_table(
                "origin",
                {
                    "base model": _code(base.source),
                    "SHA-256 of the base": _code(base.digest),
                    "licence of the base": _code(base_licence) if base_licence else UNKNOWN_LICENCE,
                    "data": _code(data.source),
                    "SHA-256 of the data": _code(data.digest),
                },
            ),
            "## Quality",
            "",
            *_table("metric (95 % interval)", _quality(scorecard)),
            verdict.strip(),
            "",
            *(["## Training", "", training.strip(), ""] if training else []),
            "## Cost",
            "",
            *_table("of making it", _costs(ledger)),
            "## Limits",
            "",
            f"- Scored only on {scorecard.examples:,} held-out examples of the data above: "
            "other languages, tasks and topics are unknown.",
            "- Not checked for safety, bias, privacy or memorised training text.",
            "- The base model's limits apply to this one, and so does its licence.",
            "- The figures are from one run; another seed gives others.",
            "",
            "## Files",
            "",
            _files(manifest),
            "",
        ]
    )
    return str(ModelCard(f"---\n{_metadata(base, base_licence)}\n---\n\n{text}"))


def _metadata(base: SourceFacts, base_licence: str) -> str:
    """Return the metadata for the Hub as YAML."""
    about = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        license=base_licence.lower() or None,
        base_model=on_hub(base.source),
        tags=["deepcuts"],
    )
    return str(about.to_yaml())


def on_hub(source: str) -> str | None:
    """Return ``org/name`` of a model from the Hub."""
    return source.removeprefix("hf://").partition("@")[0] if source.startswith("hf://") else None


def _files(manifest: Manifest) -> str:
    entries = manifest["files"].items()
    rows = [(_code(file), f"{entry['bytes']:,}", f"`{entry['sha256']}`") for file, entry in entries]
    return table(("file", "bytes", "SHA-256"), rows)


def _quality(card: Scorecard) -> dict[str, str]:
    rows = {"completion loss, nats per token": card.completion_loss}
    rows |= {"exact match": card.exact_match} if card.exact_match else {}
    rows |= {"label accuracy": card.label_accuracy} if card.label_accuracy else {}
    return {name: _interval(value) for name, value in rows.items()} | {
        "perplexity": f"{card.perplexity:.4g}",
        "SHA-256 of the split": _code(card.split_digest),
    }


def _interval(value: Interval) -> str:
    return f"{value.mean:.4f} ({value.low:.4f} to {value.high:.4f})"


def _costs(ledger: Ledger) -> dict[str, str]:
    prices = {
        f"price of pool {escape.markdown(short(pool, 40))}": (
            f"{money(price.usd_per_hour)} per hour, {_code(price.source)}, {_code(price.date)}"
        )
        for pool, price in sorted(ledger.prices.items())
    }
    return {
        "total": cost(ledger.total),
        "of it in failed attempts": cost(ledger.wasted),
        "verdict of the ledger": escape.markdown(ledger.verdict),
    } | prices


def _table(title: str, rows: Mapping[str, str]) -> list[str]:
    return [table((title, ""), rows.items()), ""]


def _code(text: str) -> str:
    return escape.code(short(text, 200))
