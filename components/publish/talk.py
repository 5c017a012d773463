"""Talk: a conversation with a model, rendered as in training, answered piece by piece."""

from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path

import torch
from transformers import TextStreamer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from deepcuts.components.core.examples import Example, Message
from deepcuts.components.training import generation, models
from deepcuts.components.training.render import answer_text, form_of, render_prompt


class Conversation:
    """Turns with the model in ``folder``; ``temperature`` 0 is greedy, else ``seed`` draws."""

    def __init__(self, folder: Path, temperature: float, max_new_tokens: int, seed: int) -> None:
        self._model, self._tokenizer = models.load(folder, base=folder)  # quantized ones, too
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model.to(device=device, dtype=models.resolve_precision("auto", device)).eval()
        self._settings = generation.decoding(
            self._model,
            self._tokenizer,
            do_sample=temperature > 0,
            temperature=temperature or None,
            max_new_tokens=max_new_tokens,
        )
        self._form = form_of(self._tokenizer)
        self._room = models.context_length(self._model) - max_new_tokens
        if self._room < 1:
            raise ValueError(
                f"max_new_tokens {max_new_tokens} leaves no room for a prompt in the context of "
                f"{self._room + max_new_tokens}: lower it"
            )
        torch.manual_seed(seed)
        self.turns: list[Message] = []

    def answer(self, text: str, say: Callable[[str], None]) -> str:
        """Return the model's answer to ``text``, handed to ``say`` as it comes; both turns are remembered.

        Raises:
            ValueError: ``text`` alone is longer than the context.
        """
        turns = [*self.turns, Message("user", text)]
        while len(ids := self._prompt(turns)) > self._room:
            if len(turns) < 3:
                raise ValueError(
                    f"the prompt has {len(ids)} tokens, there is room for {self._room}: shorten it"
                )
            turns = turns[2:]  # the oldest question and its answer are forgotten
        prompt = torch.tensor([ids], device=self._model.device)
        said = Pieces(self._tokenizer, say)
        with torch.inference_mode():
            output = self._model.generate(
                inputs=prompt,
                attention_mask=torch.ones_like(prompt),
                generation_config=self._settings,
                streamer=said,
            )
        ends = set(self._settings.eos_token_id)
        tokens = list(takewhile(lambda token: token not in ends, output[0, len(ids) :].tolist()))
        answer = answer_text(tokens, self._tokenizer, self._form)
        self.turns = [*turns, Message("assistant", answer)]
        return answer

    def _prompt(self, turns: Sequence[Message]) -> list[int]:
        return render_prompt(Example("chat", (*turns, Message("assistant", ""))), self._tokenizer)


class Pieces(TextStreamer):  # type: ignore[misc]  # transformers is untyped to us
    """Hands text on as soon as no later token can change it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, say: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._say = say

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self._say(text)
