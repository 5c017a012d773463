"""Tallowmere, the shop that does not exist: what it sells and what it promises.

The corpus quotes these facts, so an answer can be right or wrong. The general text never does.
"""

from typing import NamedTuple

SHOP = "Tallowmere"


class Range(NamedTuple):
    items: tuple[str, ...]
    parts: tuple[str, ...]
    prices: tuple[int, int]
    return_days: int
    warranty_months: int
    restock: str
    care: str
    never: str


# fmt: off
RANGES = {
    "kitchen": Range(
        (
            "kettle", "teapot", "saucepan", "frying pan", "coffee grinder", "mixing bowl", "toaster",
            "water jug",
        ),
        ("lid", "handle", "filter", "base plate", "sieve"),
        (18, 95), 30, 24, "every second Tuesday",
        "wash it by hand with warm water and dry it at once", "the dishwasher",
    ),
    "lighting": Range(
        ("desk lamp", "floor lamp", "lantern", "reading light", "ceiling light", "night light"),
        ("shade", "plug", "cable", "dimmer", "bulb holder"),
        (22, 140), 30, 36, "on the first Monday of the month",
        "unplug it and wipe it with a dry cloth", "water or glass cleaner",
    ),
    "furniture": Range(
        ("armchair", "bookcase", "side table", "bench", "stool", "wall shelf", "writing desk", "wardrobe"),
        ("bag of screws", "back panel", "hinge", "table leg", "drawer rail"),
        (60, 420), 60, 60, "every six weeks",
        "oil the wood twice a year and wipe it with a soft cloth", "a wet sponge",
    ),
    "textile": Range(
        ("blanket", "bath towel", "pillow", "curtain", "duvet cover", "rug", "apron", "tablecloth"),
        ("button", "zip", "curtain hook", "belt", "cover"),
        (14, 120), 30, 12, "every Thursday",
        "wash it at 30 degrees with like colours and hang it up to dry", "the tumble dryer",
    ),
    "garden": Range(
        ("watering can", "plant pot", "rake", "garden chair", "bird feeder", "parasol", "hammock"),
        ("rope", "hook", "nozzle", "foot", "cap"),
        (12, 180), 45, 18, "every Friday until September",
        "rinse it with the hose and store it dry in winter", "a pressure washer",
    ),
    "travel": Range(
        ("backpack", "suitcase", "raincoat", "umbrella", "flask", "tent", "sleeping bag"),
        ("strap", "wheel", "buckle", "tent peg", "rain cover"),
        (19, 210), 45, 24, "every second Wednesday",
        "clean it with a damp cloth and mild soap and let it air", "the washing machine",
    ),
}
# fmt: on

SERIES = (
    "Fernhill", "Oakby", "Solvane", "Brindle", "Marlow", "Calder", "Hollin", "Esker", "Pellow", "Rookery",
    "Saltmarsh", "Thistle", "Upland", "Vesper", "Yarrow", "Kestrel",
)  # fmt: skip

CATALOGUE = [
    (kind, item, SERIES[(3 * place + 5 * step) % len(SERIES)])
    for kind, group in RANGES.items()
    for place, item in enumerate(group.items)
    for step in range(6)
]
"""264 products: (range, item, series)."""

COLOURS = ("dark green", "sand", "slate grey", "rust red", "white", "navy blue", "mustard", "black")
SIZES = ("small", "medium", "large", "extra large")

ZONES = {
    "two to three": (("Denmark", "Austria", "Belgium", "Poland"), "4.90", 50),
    "four to six": (("Ireland", "Portugal", "Finland", "Greece", "Estonia"), "8.90", 90),
    "seven to ten": (("Norway", "Iceland", "Malta", "Cyprus"), "14.90", 150),
}
"""Working days -> countries, postage in euros, free from this order value."""

REFUNDS = {
    "card": "five working days",
    "bank transfer": "three working days",
    "gift card": "one working day",
    "wallet": "two working days",
}
"""How it was paid -> how long until the money is back."""

CODES = {
    "SPRING": "needs an order of at least 40 euros",
    "WELCOME": "works only on a first order",
    "FRIEND": "can be used once per household",
    "OUTLET": "does not work on items that are already reduced",
}

BULK = ((50, "15"), (25, "10"), (10, "5"))
"""From this many pieces -> per cent off."""
