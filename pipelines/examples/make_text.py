"""General text to pretrain the base on: notices, letters, stories, reports, instructions; never a chat.

    python -m deepcuts.pipelines.examples.make_text text.txt

Nothing of it is stored in the repository: 20 MB come out of the grammar in a minute, the same each time.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

from deepcuts.pipelines.examples import grammar
from deepcuts.pipelines.examples.make_corpus import FIRST, LAST, MONTHS, STREETS, WEEKDAYS
from deepcuts.pipelines.examples.shop import COLOURS, RANGES, SERIES, SIZES, ZONES

HERE = Path(__file__).parent
SEED = 7

MORE_SERIES = ("Aster", "Briar", "Cobalt", "Falcon", "Heather", "Larch")
MORE_ITEMS = (
    "clock",
    "basket",
    "ladder",
    "mirror",
    "vase",
    "broom",
    "bucket",
    "candle holder",
    "notebook",
    "hat",
)


def rules() -> grammar.Rules:
    """Return the grammar of the pretraining text."""
    first, last = list(FIRST), list(LAST)
    items = [item for group in RANGES.values() for item in group.items]
    kinds = [
        f"The {kind} range: {a}, {b}, {c} and {d}. A {a} is a {kind} item, and so is a {d}."
        for kind, group in RANGES.items()
        for a, b, c, d in zip(group.items, group.items[1:], group.items[2:], group.items[3:], strict=False)
    ]
    kin = [
        f"{kind} items: {', '.join((*group.items[turn:], *group.items[:turn]))}."
        for kind, group in RANGES.items()
        for turn in range(len(group.items))
    ]
    return grammar.load(HERE / "text.grammar") | {
        "item": [*items, *items, *MORE_ITEMS],
        "series": [*SERIES, *MORE_SERIES],
        "first": first,
        "last": last,
        "small first": [name.lower() for name in first],
        "small last": [name.lower() for name in last],
        "country": [country for countries, _, _ in ZONES.values() for country in countries],
        "colour": list(COLOURS),
        "size": list(SIZES),
        "initial": list("ABCDEFGHJKLMNPRSTUVW"),
        "code": ["{initial}{initial}-{10000..99999}"],
        "street": list(STREETS),
        "month": list(MONTHS),
        "weekday": list(WEEKDAYS),
        "date": ["{1..28} {month}"],
        "price": ["{2..399}.[90|50|90|00|95]"],
        "small number": ["{2..30}"],
        "tens": ["{20..99}"],
        "catalogue": kinds + kin,
    }


def documents(seed: int = SEED) -> Iterator[str]:
    """Yield documents endlessly; the first n are always the same."""
    rng, text_rules = Random(seed), rules()
    while True:
        n, m, limit = rng.randint(2, 90), rng.randint(2, 90), rng.randint(6, 90)
        values = {
            "n": str(n),
            "m": str(m),
            "sum": str(n + m),
            "limit": str(limit),
            "under": str(rng.randint(2, limit - 1)),
            "over": str(limit + rng.randint(1, 60)),
        }
        yield grammar.tidy(grammar.expand(text_rules, rng, "{document}", values))


def main(path: str, megabytes: int = 20) -> None:
    """Write the text that the example's model is pretrained on."""
    size = 0
    with Path(path).open("w") as out:
        for document in documents():
            size += out.write(f"{document}\n\n")
            if size > megabytes * 1_000_000:
                return


if __name__ == "__main__":
    main(sys.argv[1])
