"""Talk with a model: prompts are rendered as in training, and answers are streamed."""

from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path

import torch
from transformers import TextStreamer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from deepcuts.components.core.examples import Example, Message
from deepcuts.components.gguf import convert
from deepcuts.components.gguf.engine import LlamaCpp
from deepcuts.components.training import generation, models
from deepcuts.components.training.render import answer_text, form_of, render_prompt


class Conversation:
    """A conversation with the model in ``folder``; ``temperature`` 0 is greedy, else ``seed`` samples."""

    def __init__(self, folder: Path, temperature: float, max_new_tokens: int, seed: int) -> None:
        speaker = InLlama if convert.is_gguf(folder) else InTorch
        self._speaker = speaker(folder, temperature, max_new_tokens, seed)
        self._tokenizer = self._speaker.tokenizer
        self._form = form_of(self._tokenizer)
        self._room = self._speaker.context - max_new_tokens
        if self._room < 1:
            raise ValueError(
                f"max_new_tokens {max_new_tokens} leaves no room for a prompt in the context of "
                f"{self._room + max_new_tokens}: lower it"
            )
        self.turns: list[Message] = []

    def answer(self, text: str, say: Callable[[str], None]) -> str:
        """Return the model's answer to ``text``, streaming it to ``say``; both turns are remembered.

        Raises:
            ValueError: ``text`` by itself is longer than the context.
        """
        turns = [*self.turns, Message("user", text)]
        while len(ids := self._prompt(turns)) > self._room:
            if len(turns) < 3:
                raise ValueError(
                    f"the prompt has {len(ids)} tokens, there is room for {self._room}: shorten it"
                )
            turns = turns[2:]  # forget the oldest question and its answer
        tokens = self._speaker.speak(ids, Pieces(self._tokenizer, say))
        answer = answer_text(tokens, self._tokenizer, self._form)
        self.turns = [*turns, Message("assistant", answer)]
        return answer

    def _prompt(self, turns: Sequence[Message]) -> list[int]:
        return render_prompt(Example("chat", (*turns, Message("assistant", ""))), self._tokenizer)


class InTorch:
    """A transformers model, possibly quantized, on this machine's device."""

    def __init__(self, folder: Path, temperature: float, max_new_tokens: int, seed: int) -> None:
        self._model, self.tokenizer = models.load(folder, base=folder)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model.to(device=device, dtype=models.resolve_precision("auto", device)).eval()
        self._settings = generation.decoding(
            self._model,
            self.tokenizer,
            do_sample=temperature > 0,
            temperature=temperature or None,
            max_new_tokens=max_new_tokens,
        )
        self.context = models.context_length(self._model)
        torch.manual_seed(seed)

    def speak(self, ids: list[int], said: "Pieces") -> list[int]:
        """Return the tokens after the prompt ``ids`` without the end; ``said`` gets them as they come."""
        prompt = torch.tensor([ids], device=self._model.device)
        with torch.inference_mode():
            output = self._model.generate(
                inputs=prompt,
                attention_mask=torch.ones_like(prompt),
                generation_config=self._settings,
                streamer=said,
            )
        ends = set(self._settings.eos_token_id)
        return list(takewhile(lambda token: token not in ends, output[0, len(ids) :].tolist()))


class InLlama:
    """A GGUF model in llama.cpp."""

    def __init__(self, folder: Path, temperature: float, max_new_tokens: int, seed: int) -> None:
        self._engine, self.tokenizer = LlamaCpp(folder), models.load_tokenizer(folder)
        self._temperature, self._room, self._seed = temperature, max_new_tokens, seed
        self._ends = set(generation.ends_of(folder, self.tokenizer))
        self.context = self._engine.context

    def speak(self, ids: list[int], said: "Pieces") -> list[int]:
        """Return the tokens after the prompt ``ids`` without the end; ``said`` gets them as they come."""
        said.put(torch.tensor(ids))
        tokens = []
        for token in self._engine.generate(ids, self._ends, self._room, self._temperature, self._seed):
            tokens.append(token)
            said.put(torch.tensor([token]))
        said.end()
        self._seed += 1
        return tokens


class Pieces(TextStreamer):  # type: ignore[misc]  # transformers is untyped here
    """Streams text as soon as later tokens cannot change it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, say: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._say = say

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self._say(text)
