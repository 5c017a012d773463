"""Write support.jsonl: 4,000 customer-support conversations of a shop that does not exist.

    python -m deepcuts.pipelines.examples.make_corpus

Like a real inbox it holds near-duplicates, some wrong answers and three malformed lines, so that ingest and
select have something to find. The same seed gives the same bytes.
"""

import json
import re
from pathlib import Path
from random import Random
from typing import Literal, NamedTuple

from deepcuts.pipelines.examples import grammar
from deepcuts.pipelines.examples.shop import (
    BULK,
    CATALOGUE,
    CODES,
    COLOURS,
    RANGES,
    REFUNDS,
    SHOP,
    SIZES,
    ZONES,
)

HERE = Path(__file__).parent
SEED = 20
DUPLICATES = 320  # 8 % of 4,000
WRONG = 52  # an answer to another question
BAD = WRONG + 28  # or one that stops in the middle

LONGEST = (360, 500)  # characters of a single turn and of two, so that none passes 250 tokens

# How often people write about it, in 3,680 different conversations. Four intents are rare on purpose:
# a selection that only follows the crowd loses them.
COUNTS = {
    "order_status": 450, "return_request": 380, "refund_status": 310, "damaged_item": 290,
    "delivery_time": 280, "cancel_order": 247, "wrong_item": 190, "warranty": 190, "change_address": 165,
    "product_care": 150, "stock": 145, "missing_part": 140, "exchange": 130, "payment_failed": 125,
    "shipping_cost": 95, "discount_code": 80, "invoice": 80, "account_login": 58, "price_drop": 37,
    "gift_card": 30, "bulk_order": 28, "gift_wrap": 24, "newsletter": 22, "delete_data": 18,
    "product_safety": 16,
}  # fmt: skip

FIRST = (
    "Anna", "Tom", "Mira", "Jonas", "Elin", "Karim", "Ruth", "Pavel", "Sofia", "Hugo", "Leila", "Oscar",
    "Ines", "Viktor", "Amara", "Felix", "Noor", "Greta", "Samuel", "Yuki", "Daria", "Colin", "Petra", "Idris",
)  # fmt: skip
LAST = (
    "Beck", "Novak", "Larsen", "Ortega", "Quinn", "Haddad", "Weber", "Moreau", "Silva", "Kowal", "Byrne",
    "Tanaka", "Fischer", "Adeyemi", "Rossi", "Lindqvist", "Marsh", "Petrov", "Costa", "Doyle",
)  # fmt: skip
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December",
)  # fmt: skip
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
STREETS = ("Mill Lane", "Station Road", "Harbour Street", "Garden Row", "Church Hill", "Bridge Street")
TOWNS = ("Norbury", "Westhaven", "Ashford Mill", "Lower Denby", "Port Elling", "Stonebridge")
FIRMS = ("Calloway Design", "Hotel Seeblick", "Brightwater School", "Norden and Sons", "Green Door Studio")
RELATIVES = ("mother", "father", "sister", "brother", "grandmother", "neighbour", "daughter", "best friend")
MAILS = ("post.example", "mail.example")
AGENTS = ("Nora", "Ben", "Clara", "David", "Mei", "Jakob")
MOODS = {"neutral": 58, "polite": 14, "angry": 13, "worried": 9, "happy": 6}

SWAPS = {"the": "that", "and": "plus", "is": "was", "my": "our", "I": "we", "please": "kindly", "for": "of"}
EXTRAS = ("Thanks in advance!", "Sent from my phone.", "I hope to hear from you soon.", "Second try.")

QUOTED = (
    "order", "item", "product", "other", "part", "price", "low", "colour", "colour2", "date", "weekday",
    "value", "relative", "email", "email2", "company", "card",
)  # fmt: skip

Turn = dict[str, str]
Kind = Literal["plain", "duplicate", "wrong", "cut off", "malformed"]


class CorpusRow(NamedTuple):
    """One line of the corpus, and why it is there."""

    line: str
    kind: Kind
    intent: str


def facts(rng: Random) -> dict[str, str]:
    """Draw everything one customer may mention, and what the shop's rules make of it."""
    index = rng.randrange(len(CATALOGUE))
    kind, item, series = CATALOGUE[index]
    group = RANGES[kind]
    product = f"{series} {item}"
    other_kind, other_item, other_series = CATALOGUE[(index + rng.randrange(7, 200)) % len(CATALOGUE)]
    low_price, high_price = group.prices
    price = low_price + (index * 37) % (high_price - low_price)
    low = price * rng.randint(5, 9) // 10
    days_text = rng.choice(list(ZONES))
    countries, postage, free_from = ZONES[days_text]
    method = rng.choice(list(REFUNDS))
    code = rng.choice(list(CODES))
    many = rng.randint(10, 90)
    window, warranty = group.return_days, group.warranty_months
    colour, colour2 = rng.sample(COLOURS, 2)
    size, size2 = rng.sample(SIZES, 2)
    first, last = rng.choice(FIRST), rng.choice(LAST)
    return {
        "order": f"TM-{rng.randrange(10_000, 100_000)}", "kind": kind, "item": item, "series": series,
        "product": product, "other": f"{other_series} {other_item}", "part": rng.choice(group.parts),
        "colour": colour, "colour2": colour2, "size": size, "size2": size2,
        "first": first, "name": f"{first} {last}", "relative": rng.choice(RELATIVES),
        "company": rng.choice(FIRMS), "email": f"{first}.{last}@{rng.choice(MAILS)}".lower(),
        "email2": f"{first}{rng.randint(10, 99)}@inbox.example".lower(),
        "address": f"{rng.randint(1, 99)} {rng.choice(STREETS)}, {rng.choice(TOWNS)}",
        "date": f"{rng.randint(1, 28)} {rng.choice(MONTHS)}", "weekday": rng.choice(WEEKDAYS),
        "country": rng.choice(countries), "days_text": days_text, "postage": postage,
        "free_from": str(free_from), "above": str(free_from + rng.randint(1, 60)),
        "below": str(free_from - rng.randint(1, 30)), "price": f"{price}.90", "low": f"{low}.50",
        "method": method, "refund_days": REFUNDS[method], "code": f"{code}{rng.randint(10, 99)}",
        "rule": CODES[code], "card": f"GC-{rng.randrange(1000, 10_000)}",
        "value": rng.choice(("20", "25", "50", "75")), "few": rng.choice(("two", "three", "four")),
        "many": str(many), "off": next(off for pieces, off in BULK if many >= pieces),
        "window": str(window), "days_in": str(rng.randint(2, window)),
        "days_out": str(window + rng.randint(2, 60)), "warranty": str(warranty),
        "months_in": str(rng.randint(2, warranty)), "months_out": str(warranty + rng.randint(1, 24)),
        "drop_in": str(rng.randint(2, 14)), "drop_out": str(rng.randint(15, 40)),
        "restock": group.restock, "care": group.care, "never": group.never,
        "ago_short": rng.choice(("ten minutes ago", "half an hour ago", "an hour ago", "just now")),
        "ago_long": rng.choice(("yesterday", "two days ago", "this morning", "on " + rng.choice(WEEKDAYS))),
    }  # fmt: skip


def typos(rng: Random, text: str) -> str:
    """Add typos to ordinary words, but not to numbers and names, which the answer has to quote."""

    def slip(match: re.Match[str]) -> str:
        word, at = match[0], rng.randrange(1, len(match[0]) - 1)
        if rng.random() > 0.12:
            return word
        swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        return rng.choice((swapped, word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:]))

    text = re.sub(r"\b[a-z]{4,}\b(?![.@])", slip, text)
    return rng.choice((text, text.lower().replace("tm-", "TM-"), text.rstrip(".?!")))


def sane(turns: list[Turn], values: dict[str, str]) -> bool:
    """Tell whether a chat is short, and its answers of 15 to 52 words invent nothing about the order."""
    asked = " ".join(turn["content"] for turn in turns if turn["role"] == "user").lower()
    answered = " ".join(turn["content"] for turn in turns if turn["role"] == "assistant").lower()
    quoted = (values[name].lower() for name in QUOTED)
    if len(asked) + len(answered) > LONGEST[len(turns) > 2]:
        return False
    return all(value in asked or value not in answered for value in quoted) and all(
        15 <= len(turn["content"].split()) <= 52 for turn in turns if turn["role"] == "assistant"
    )


def conversation(rules: grammar.Rules, rng: Random, intent: str) -> list[Turn]:
    """Write one conversation about ``intent``."""
    cases = [name.removesuffix("/ask") for name in rules if name.startswith(f"{intent}/") and "/ask" in name]
    case, values = rng.choice(cases), facts(rng)
    while not sane(turns := written(rules, rng, case, values), values):
        values = facts(rng)
    if rng.random() < 0.16:
        for turn in turns[::2]:
            turn["content"] = typos(rng, turn["content"])
    if rng.random() < 0.09:
        agent = rng.choice(AGENTS)
        for turn in turns[1::2]:
            turn["content"] += f" {agent}, {SHOP}"
        turns.insert(
            0, {"role": "system", "content": grammar.expand(rules, rng, "{system}", {"agent": agent})}
        )
    return turns


def written(rules: grammar.Rules, rng: Random, case: str, values: dict[str, str]) -> list[Turn]:
    """Return a question and its answer, sometimes with details on request or a second question."""
    mood = rng.choices(list(MOODS), list(MOODS.values()))[0]
    greeting = "{hello}" if rng.random() < 0.35 else ""
    who, opening = ("{who}", "Hello {first}!") if rng.random() < 0.25 else ("", "")
    vague = f"{case.split('/')[0]}/vague"
    answer = f"{{sorry/{mood}}} {{{case}/answer}} {{bye}}"
    if vague in rules and rng.random() < 0.16:
        texts = [
            f"{greeting} {who} {{mood/{mood}}} {{{vague}}} {{thanks}}",
            f"{opening} {{askmore}}",
            f"{{givemore}} {{{case}/ask}}",
            answer,
        ]
    else:
        texts = [f"{greeting} {who} {{mood/{mood}}} {{{case}/ask}} {{thanks}}", f"{opening} {answer}"]
        if rng.random() < 0.07:
            topic = rng.choice(("thanks", "email", "shop", "human"))
            texts += [f"{{follow/{topic}/ask}}", f"{{follow/{topic}/answer}}"]
    said = [grammar.tidy(grammar.expand(rules, rng, text, values)) for text in texts]
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(said)]


def echoed(rng: Random, turns: list[Turn]) -> list[Turn]:
    """Return the same message again, as in an inbox: sent twice, retyped, or with a line added."""
    copy = [dict(turn) for turn in turns]
    asked = next(turn for turn in copy if turn["role"] == "user")
    text = asked["content"]
    match rng.randrange(4):
        case 0:
            pass
        case 1:
            shouted = text.upper() if len(text) < 120 else text.lower()  # capitals cost twice the tokens
            asked["content"] = rng.choice((shouted, text.lower(), text.replace(" ", "  "), f" {text}\n"))
        case 2:
            swaps = [(old, new) for old, new in SWAPS.items() if re.search(rf"\b{old}\b", text)]
            old, new = rng.choice(swaps or [(text.split()[-1], "now")])
            asked["content"] = re.sub(rf"\b{re.escape(old)}", new, text, count=1)
        case _:
            asked["content"] = f"{text} {rng.choice(EXTRAS)}"
    return copy


def corpus() -> list[CorpusRow]:
    """Write all rows, in order."""
    rng, rules = Random(SEED), grammar.load(HERE / "support.grammar")
    intents = [intent for intent, count in COUNTS.items() for _ in range(count)]
    plain = [(intent, conversation(rules, rng, intent)) for intent in intents]
    rng.shuffle(plain)
    wrong, cut_off, broken, clean = plain[:WRONG], plain[WRONG:BAD], plain[BAD : BAD + 3], plain[BAD + 3 :]

    rows: list[tuple[Kind, str, list[Turn]]] = [("plain", intent, turns) for intent, turns in clean]
    for intent, turns in wrong:
        stranger = rng.choice([other for other in clean if other[0] != intent])[1]
        rows.append(("wrong", intent, [*turns[:-1], stranger[-1]]))
    for intent, turns in cut_off:
        words = turns[-1]["content"].split()
        half = " ".join(words[: rng.randint(4, len(words) // 2)])
        rows.append(("cut off", intent, [*turns[:-1], {"role": "assistant", "content": half}]))
    rows += [("duplicate", intent, echoed(rng, turns)) for intent, turns in rng.choices(clean, k=DUPLICATES)]
    rows += [("malformed", intent, turns) for intent, turns in broken]
    rng.shuffle(rows)

    lines, faults = [], iter(("truncated", "empty answer", "wrong role"))
    for number, (kind, intent, turns) in enumerate(rows, start=1):
        fault = next(faults) if kind == "malformed" else ""
        if fault == "empty answer":
            turns = [*turns[:-1], {"role": "assistant", "content": ""}]
        if fault == "wrong role":
            turns = [*turns[:-1], {"role": "agent", "content": turns[-1]["content"]}]
        line = json.dumps({"id": f"c{number:04d}", "messages": turns, "intent": intent}, ensure_ascii=False)
        lines.append(CorpusRow(line[: len(line) // 2] if fault == "truncated" else line, kind, intent))
    return lines


def main() -> None:
    """Write the example's corpus."""
    text = "".join(f"{row.line}\n" for row in corpus())
    (HERE / "support.jsonl").write_text(text)


if __name__ == "__main__":
    main()
