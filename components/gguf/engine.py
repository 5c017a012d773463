"""Run llama.cpp on a GGUF file like its server does: likelihoods, greedy answers, time per token."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deepcuts.components.core.errors import DataError
from deepcuts.components.gguf import convert
from deepcuts.components.training.latency import NEW_TOKENS, PROMPT_TOKENS

Logits = NDArray[np.float64]


class LlamaCpp:
    """A model folder with ``model.gguf``, on the CPU, with as many threads as torch.

    Raises:
        NoGguf: llama.cpp is not installed.
        DataError: the file is truncated, or llama.cpp cannot load it.
    """

    def __init__(self, folder: Path) -> None:
        convert.check_installed()
        from cyllama.llama import llama_cpp

        file = folder / convert.FILE
        convert.check_file(file)
        llama_cpp.disable_logging()
        self._llama, self.folder = llama_cpp, folder
        parameters = llama_cpp.LlamaModelParams()
        parameters.n_gpu_layers = 0
        parameters.check_tensors = True
        try:
            self._model = _model_class(llama_cpp)(str(file), parameters, verbose=False)
        except (ValueError, RuntimeError, OSError) as error:
            raise DataError(
                f"{file} does not load in llama.cpp ({error}): it is truncated or of a newer version; "
                "download or convert it again"
            ) from error
        self.vocabulary: int = self._model.n_vocab
        self.context: int = self._model.n_ctx_train
        self.stateful = bool(self._model.is_recurrent() or self._model.is_hybrid())

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of ``text`` like the server reads a rendered prompt."""
        found: list[int] = self._model.get_vocab().tokenize(text, False, True)
        return list(found)

    def logits(self, ids: Sequence[int], places: Sequence[int]) -> Iterator[Logits]:
        """Yield the logits (V,) after each of the ``places`` in ``ids``, in order."""
        context = self.open(len(ids), 1)
        wanted = set(places)
        self.decode(context, [(token, i, 0, i in wanted) for i, token in enumerate(ids)])
        for place in places:
            yield self.logits_at(context, place)

    def generate(
        self, prompt: Sequence[int], ends: set[int], room: int, temperature: float = 0.0, seed: int = 0
    ) -> Iterator[int]:
        """Yield up to ``room`` tokens after ``prompt``, stopping before an end token.

        At temperature 0 the likeliest; above, sampled with ``seed``.
        """
        context, draw = self.open(len(prompt) + room, 1), np.random.default_rng(seed)
        rows = [(token, i, 0, i == len(prompt) - 1) for i, token in enumerate(prompt)]
        for place in range(len(prompt), len(prompt) + room):
            self.decode(context, rows)
            logits = self.logits_at(context, len(rows) - 1)
            token = int(np.argmax(logits))
            if temperature:
                shares = np.exp((logits - logits.max()) / temperature)
                token = int(draw.choice(len(shares), p=shares / shares.sum()))
            if token in ends:
                return
            yield token
            rows = [(token, place, 0, True)]

    def decode_seconds(self, batch: int, clock: Callable[[], float] = time.perf_counter) -> float:
        """Time ``NEW_TOKENS`` decoding steps of ``batch`` rows after a prompt, which does not count."""
        context = self.open(batch * (PROMPT_TOKENS + NEW_TOKENS), batch)
        tokens = np.random.default_rng(0).integers(self.vocabulary, size=(batch, PROMPT_TOKENS + NEW_TOKENS))
        last = PROMPT_TOKENS - 1
        self.decode(
            context,
            [(int(tokens[b, i]), i, b, i == last) for b in range(batch) for i in range(PROMPT_TOKENS)],
        )
        begin = clock()
        for place in range(PROMPT_TOKENS, PROMPT_TOKENS + NEW_TOKENS):
            self.decode(context, [(int(tokens[b, place]), place, b, True) for b in range(batch)])
        return clock() - begin

    def open(self, tokens: int, sequences: int, pass_tokens: int | None = None) -> Any:
        """Return a context for as many tokens, computed in passes of at most ``pass_tokens``."""
        parameters = self._llama.LlamaContextParams()
        parameters.n_ctx = parameters.n_batch = max(tokens, 32)
        parameters.n_ubatch = min(parameters.n_batch, pass_tokens or parameters.n_batch)
        parameters.n_seq_max = sequences
        parameters.kv_unified = True  # as in the server: sequences share the cells of one cache
        parameters.n_threads = parameters.n_threads_batch = torch.get_num_threads()
        return self._llama.LlamaContext(self._model, parameters, verbose=False)

    def logits_at(self, context: Any, row: int) -> Logits:
        """Return the logits (V,) of a row of the last ``decode`` that asked for them."""
        return np.asarray(context.get_logits_ith(row), dtype=np.float64)

    def decode(self, context: Any, rows: Sequence[tuple[int, int, int, bool]]) -> None:
        """Run the model over rows of (token, position, sequence, whether to return logits)."""
        batch = self._llama.LlamaBatch(n_tokens=len(rows), embd=0, n_seq_max=1, verbose=False)
        for token, position, sequence, wanted in rows:
            batch.add(token, position, [sequence], wanted)
        if code := context.decode(batch):
            raise DataError(f"{self.folder}: llama.cpp cannot decode {len(rows)} tokens (status {code})")
        context.synchronize()


def nats_of(logits: Logits, token: int) -> float:
    """Return the negative log-likelihood of ``token``."""
    return logsumexp(logits) - float(logits[token])


def logsumexp(logits: Logits) -> float:
    """Return the logarithm of the summed exponentials."""
    top = logits.max()
    return float(top + np.log(np.exp(logits - top).sum()))


def _model_class(llama_cpp: Any) -> Any:
    """Return cyllama's model class with ``n_vocab``, which its ``get_logits_ith`` reads and 0.2.18 lacks."""

    class Model(llama_cpp.LlamaModel):  # type: ignore[misc]
        @property
        def n_vocab(self) -> int:
            return int(self.get_vocab().n_vocab)

    return Model
