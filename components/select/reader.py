"""Read Examples with a model, for either engine: represent them as vectors, or score their answers."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import PreTrainedModel

from deepcuts.components.core.errors import DataError
from deepcuts.components.core.examples import Example
from deepcuts.components.core.progress import Heard
from deepcuts.components.select import duplicates
from deepcuts.components.select.representations import Vectors, embed
from deepcuts.components.training import models, scoring
from deepcuts.components.training.losses import CompletionLoss
from deepcuts.components.training.render import Rendered

if TYPE_CHECKING:
    from deepcuts.components.select.embedder import Embedder

CHUNK = 8192
"""Examples read together, as the token ids of a million are gigabytes as Python lists. Batches are made
within them, and a vector's last bits depend on its batch, so both engines have the same chunks."""


class Reader:
    """The model at ``base``; or, for vectors, the sentence-transformers model at ``embedder_uri`` if any."""

    def __init__(self, base: Path, embedder_uri: str) -> None:
        self._base, self._embedder_uri = base, embedder_uri
        self.tokenizer = models.load_tokenizer(base)
        self.tokens = 0
        """Tokens that the base has read."""

    def embed(self, records: Sequence[Example], embedded: Heard) -> Vectors:
        """Represent at most CHUNK Examples; ``embedded`` is called with the number newly done.

        Raises:
            DataError: a vector is not finite.
        """
        if self._embedder_uri:
            vectors = self._embedder.embed([duplicates.text(record) for record in records], embedded)
        else:
            vectors = embed(self._network, self._rendered(records), embedded)
        self._check_finite(np.isfinite(vectors.sum(1)), records)
        return vectors

    def nats(self, records: Sequence[Example], scored: Heard) -> list[float]:
        """Return the loss per answer token of at most CHUNK Examples; raises as ``embed``."""
        found = scoring.answer_nats(self._loss, self._rendered(records), scored)
        nats = [total / tokens for total, tokens in found]
        self._check_finite(np.isfinite(nats), records)
        return nats

    def _rendered(self, records: Sequence[Example]) -> list[Rendered]:
        data = scoring.render_all(records, self.tokenizer)
        self.tokens += sum(len(rendered.ids) for rendered in data)
        return data

    def _check_finite(self, finite: Iterable[bool], records: Sequence[Example]) -> None:
        bad = [record.id for ok, record in zip(finite, records, strict=True) if not ok]
        if bad:
            raise DataError(
                f"{self._embedder_uri or 'the base model'} gives {len(bad)} examples no finite score (first: "
                f"{bad[0]!r}): check its weights, or use method random"
            )

    @cached_property
    def _embedder(self) -> "Embedder":
        from deepcuts.components.select.embedder import Embedder  # takes a CPU-second to import

        return Embedder(self._embedder_uri)

    @cached_property
    def _network(self) -> PreTrainedModel:
        network, _ = models.load_base(self._base)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network.to(device=device, dtype=models.resolve_precision("auto", device))
        return network

    @cached_property
    def _loss(self) -> CompletionLoss:
        return CompletionLoss(self._network)
