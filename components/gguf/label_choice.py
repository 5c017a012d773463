"""Choose each example's likeliest label in llama.cpp, by the search of ``training/label_search.py``.

The cells of what several prompts or labels share belong to several sequences of one cache: what all prompts
begin with is sequence 0, each prompt continues it as a sequence of its own, and each stretch of labels
continues a copy of the one before it. A copied sequence costs no cells.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from deepcuts.components.core.progress import Heard, unheard
from deepcuts.components.gguf.engine import LlamaCpp, logsumexp
from deepcuts.components.training.label_choice import LabelTokens, Question, together
from deepcuts.components.training.label_search import ROUND_TOKENS, LabelSearch, common_prefix, decide

PROMPT_TOKENS = 512
"""Tokens of prompts searched together, which each token's attention looks through."""


class Room(NamedTuple):
    """Sequences of the cache."""

    prompts: int
    """Prompts searched together."""
    kept: int
    """Stretches that stay in the cache; others are computed again if labels part after them."""

    @property
    def round(self) -> int:
        """Return the most stretches computed together: one of each prompt, or one a token."""
        return max(self.prompts, ROUND_TOKENS)

    @property
    def sequences(self) -> int:
        """Count them with the one of what all prompts begin with."""
        return 1 + self.prompts + self.round + self.kept


ROOM, SMALL_ROOM = Room(16, 95), Room(1, 0)
"""128 of the 256 sequences that llama.cpp can hold; fewer for models with states, megabytes each."""


def choose(
    engine: LlamaCpp, asked: Sequence[Question], chose: Heard = unheard
) -> tuple[list[int], LabelTokens]:
    """Return (each question's likeliest label, the tokens this took); ``chose`` gets the number done."""
    if not asked:
        return [], LabelTokens()
    shared = common_prefix([question.prompt for question in asked])
    room = SMALL_ROOM if engine.stateful else ROOM
    batches = list(together(asked, shared, PROMPT_TOKENS, room.prompts))
    prompts = max(sum(len(one.prompt) - shared for one in some) for some in batches)
    longest = max(len(tail) for question in asked for tail in question.tails)
    context = engine.open(shared + prompts + room.sequences * longest, room.sequences, PROMPT_TOKENS)
    if shared:
        engine.decode(context, [(token, i, 0, False) for i, token in enumerate(asked[0].prompt[:shared])])
    found, computed = [], shared
    for some in batches:
        batch = LabelBatch(engine, context, some, shared, room)
        found += [label for label, _ in decide(batch.searches, batch.compute)]
        computed += batch.computed
        chose(len(some))
        for sequence in range(1, room.sequences):
            context.memory_seq_rm(sequence, -1, -1)
    return found, LabelTokens(computed, sum(question.tokens for question in asked))


class LabelBatch:
    """Questions searched together, and where their tokens are in the cache."""

    def __init__(
        self, engine: LlamaCpp, context: Any, asked: Sequence[Question], shared: int, room: Room
    ) -> None:
        self.searches = [LabelSearch(question.tails) for question in asked]
        self.computed = 0
        self._engine, self._context, self._asked, self._shared = engine, context, asked, shared
        self._kept: dict[tuple[int, int], int] = {}
        """Sequences of the stretches in the cache, which end with them."""
        self._round, self._free = room.round, list(range(1 + room.prompts, room.sequences))

    def compute(self, due: Sequence[tuple[int, int]]) -> list[list[float]]:
        """Compute stretches, given as (number of the search, of the stretch); return the nats they read."""
        rows: list[tuple[int, int, int, bool]] = []
        ends, sequences = [], []
        for number, stretch in due:
            tokens, start, before = self._missing(number, stretch)
            sequence = self._free.pop() if stretch else 1 + number
            self._context.memory_seq_cp(before, sequence, -1, -1)
            own = max(1, len(self.searches[number].tokens(stretch)))
            read_from = len(tokens) - own
            rows += [(token, start + i, sequence, i >= read_from) for i, token in enumerate(tokens)]
            ends.append(len(rows))
            sequences.append(sequence)
        self._engine.decode(self._context, rows)
        self.computed += len(rows)
        nats = [self._read(*one, end) for one, end in zip(due, ends, strict=True)]
        for (number, stretch), sequence in zip(due, sequences, strict=True):
            if stretch == 0 or len(self._free) > self._round:
                self._kept[number, stretch] = sequence
            else:
                self._context.memory_seq_rm(sequence, -1, -1)
                self._free.append(sequence)
        return nats

    def _missing(self, number: int, stretch: int) -> tuple[list[int], int, int]:
        """Return (the tokens to compute, the first one's position, the sequence that they continue)."""
        prompt, search = self._asked[number].prompt, self.searches[number]
        if stretch == 0:
            return list(prompt[self._shared :]), self._shared, 0
        tokens, start = list(search.tokens(stretch)), search.stretches[stretch].start
        parent = search.stretches[stretch].parent
        while (number, parent) not in self._kept:
            tokens, start = [*search.tokens(parent), *tokens], search.stretches[parent].start
            parent = search.stretches[parent].parent
        return tokens, len(prompt) + start, self._kept[number, parent]

    def _read(self, number: int, stretch: int, end: int) -> list[float]:
        """Return the nats that a stretch reads; its last token was decoded before row ``end``."""
        search = self.searches[number]
        places = [place for place, _ in search.read_at(stretch)]
        first = end - len(search.tokens(stretch))
        rows = {place: end - 1 if place < 0 else first + place for place in places}
        logits = {place: self._engine.logits_at(self._context, row) for place, row in rows.items()}
        everything = {place: logsumexp(found) for place, found in logits.items()}
        return [everything[place] - float(logits[place][token]) for place, token in search.read_at(stretch)]
