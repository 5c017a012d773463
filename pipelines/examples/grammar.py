"""Generate text from a grammar, so that the corpus and the general text are not copied from anywhere.

A grammar file holds rules: a name at the start of a line, its alternatives indented below it. In an
alternative ``{name}`` is a value given by the caller, or one alternative of that rule; ``{who=name}`` also
remembers what came out as ``{who}``; ``{2..40}`` is a number; ``[one|two|]`` is one of the parts.
"""

import re
from pathlib import Path
from random import Random

Rules = dict[str, list[str]]

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_NAME = re.compile(r"\{([^{}]+)\}")
_SENTENCE = re.compile(r"(^|[.!?] |\n)([a-z])(?![\w.]*@)")
_ARTICLE = re.compile(r"\b([Aa]) (?=[AEIOaeio](?!ne\b|u)|[Uu][mnp](?!i))")


def load(path: Path) -> Rules:
    """Read a grammar: a rule's name on a line, its alternatives indented below."""
    rules: Rules = {}
    for line in path.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if line[0] != " ":
            alternatives = rules.setdefault(line.strip(), [])
        else:
            alternatives.append(line.strip())
    return rules


def expand(rules: Rules, rng: Random, text: str, values: dict[str, str]) -> str:
    """Fill in ``text``; values bound meanwhile are added to ``values``."""

    def name(match: re.Match[str]) -> str:
        bound, _, rule = match[1].rpartition("=")
        if rule in values:
            filled = values[rule]
        elif ".." in rule:
            low, high = rule.split("..")
            filled = str(rng.randint(int(low), int(high)))
        else:
            filled = expand(rules, rng, rng.choice(rules[rule]), values)
        if bound:
            values[bound] = filled
        return filled

    while "[" in text:
        text = _CHOICE.sub(lambda match: rng.choice(match[1].split("|")), text)
    while "{" in text:
        text = _NAME.sub(name, text)
    return text


def tidy(text: str) -> str:
    """Capitalise sentences, choose a or an, remove double spaces."""
    text = re.sub(r" +([.,!?])", r"\1", re.sub(r"  +", " ", text)).replace("\\n", "\n")
    text = re.sub(r" ?\n ?", "\n", text.strip())
    text = _ARTICLE.sub(lambda match: f"{match[1]}n ", text)
    return _SENTENCE.sub(lambda match: match[1] + match[2].upper(), text)
