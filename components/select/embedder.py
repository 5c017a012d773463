"""Embed texts with a sentence-transformers model in place of the base's states."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from deepcuts.components.core.errors import DataError
from deepcuts.components.core.progress import Heard
from deepcuts.components.fetch import safety, sources
from deepcuts.components.select.representations import Vectors

CHUNK = 1024
"""Texts sorted by length together: sixteen batches with little padding."""


class Embedder:
    """The sentence-transformers model at ``uri``, in the form that ``fetch`` accepts.

    Raises:
        ValueError, FileNotFoundError, StoreError: as in fetch.
        DataError: it is not such a model, or needs code.
    """

    def __init__(self, uri: str) -> None:
        with tempfile.TemporaryDirectory(prefix="embedder-") as scratch:
            folder = Path(scratch) / "embedder"
            source = sources.locate(uri, "model")
            source.copy(safety.choose(source.names(), "model"), folder)
            safety.check_model(folder)
            if not (folder / "modules.json").is_file():
                raise DataError(
                    f"{uri} has no modules.json, so it is not a sentence-transformers model: save it with "
                    "SentenceTransformer.save_pretrained, or leave embedder_uri empty to use the base"
                )
            device = "cuda" if torch.cuda.is_available() else "cpu"
            self._model = SentenceTransformer(
                str(folder), device=device, local_files_only=True, trust_remote_code=False
            )

    def embed(self, texts: Sequence[str], embedded: Heard) -> Vectors:
        """Embed texts, (texts, width), float32; texts beyond the model's longest sequence are truncated.

        ``embedded`` is called with the number newly done.
        """
        vectors = []
        for start in range(0, len(texts), CHUNK):
            chunk = list(texts[start : start + CHUNK])
            encoded = self._model.encode(chunk, batch_size=64, show_progress_bar=False, convert_to_numpy=True)
            vectors.append(np.asarray(encoded, dtype=np.float32))
            embedded(len(chunk))
        return np.concatenate(vectors)
