"""Write the Modelfile with which Ollama runs a GGUF file, with the prompt format of training."""

from pathlib import Path
from typing import NamedTuple

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from deepcuts.components.core.errors import DataError
from deepcuts.components.core.examples import Example, Message
from deepcuts.components.gguf.convert import FILE
from deepcuts.components.training import generation
from deepcuts.components.training.render import render_prompt

NAME = "Modelfile"
SYSTEM, USER, ANSWER, AGAIN = "Szsystemz", "Uzuserz", "Azanswerz", "Vzagainz"
"""Marker texts to locate turns in a rendered prompt."""


class TurnMarks(NamedTuple):
    """Text around the turns of a conversation in a rendered prompt."""

    begin: str
    """Before the first turn, if it is the user's."""
    system: tuple[str, str] | None
    """Before and after a system turn; None if the model has no such role."""
    user: tuple[str, str]
    """Before the user's turn, and between it and the answer."""
    answer: str
    """After an answer."""


def write(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write the Modelfile of ``folder``'s GGUF file, with greedy decoding as in evaluate."""
    ends = tokenizer.convert_ids_to_tokens(generation.ends_of(folder, tokenizer))
    lines = [f"FROM ./{FILE}", *(f'PARAMETER stop "{end}"' for end in ends if '"' not in end)]
    lines.append("PARAMETER temperature 0")
    if turns := turns_of(tokenizer):
        bos = tokenizer.bos_token if getattr(tokenizer, "add_bos_token", False) else None
        lines.append(f'TEMPLATE """{template(turns, bos or "")}"""')
    (folder / NAME).write_text("\n".join(lines) + "\n", encoding="utf-8")


def turns_of(tokenizer: PreTrainedTokenizerBase) -> TurnMarks | None:
    """Split a rendered conversation into marks; None if its turns depend on each other.

    Without our template, Ollama uses the one in the GGUF file, which it may recognise by its text.
    """
    long = _rendered(tokenizer, Message("user", USER), Message("assistant", ANSWER), Message("user", AGAIN))
    parts = _split(long, USER, ANSWER, AGAIN) if long else None
    if not parts or parts[1] != parts[3]:
        return None
    before, after, between, _ = parts
    common = 0
    while common < min(len(before), len(between)) and before[-1 - common] == between[-1 - common]:
        common += 1
    start = before[len(before) - common :]
    turns = TurnMarks(before[: len(before) - common], None, (start, after), between[: len(between) - common])
    said = _rendered(tokenizer, Message("system", SYSTEM), Message("user", USER))
    around = _split(said, SYSTEM, USER) if said else None
    if around and around[1].endswith(start):
        return turns._replace(system=(around[0], around[1].removesuffix(start)))
    return turns


def template(turns: TurnMarks, bos: str) -> str:
    """Return Ollama's (Go) template, without ``bos``, which the engine adds to every prompt."""
    begin = turns.begin.removeprefix(bos)
    system = ""
    if turns.system:
        before, after = turns.system
        before = before.removeprefix(bos)
        system = f'{{{{ if eq $m.Role "system" }}}}{before}{{{{ $m.Content }}}}{after}{{{{ else }}}}'
    first = f"{{{{ if eq $i 0 }}}}{begin}{{{{ end }}}}" if begin else ""
    user = f'{{{{ if eq $m.Role "user" }}}}{first}{turns.user[0]}{{{{ $m.Content }}}}{turns.user[1]}'
    answer = f"{{{{ else }}}}{{{{ $m.Content }}}}{turns.answer}{{{{ end }}}}"
    return (
        f"{{{{ range $i, $m := .Messages }}}}{system}{user}{answer}{'{{ end }}' * bool(system)}{{{{ end }}}}"
    )


def _rendered(tokenizer: PreTrainedTokenizerBase, *turns: Message) -> str | None:
    try:
        ids = render_prompt(Example("probe", (*turns, Message("assistant", ""))), tokenizer)
    except (DataError, ValueError):
        return None  # a template without this role, or this order
    return str(tokenizer.decode(ids))


def _split(text: str, *marks: str) -> list[str] | None:
    """Return the texts between the marks; None unless each occurs once, in order."""
    parts = []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found or mark in text:
            return None
        parts.append(before)
    return [*parts, text]
