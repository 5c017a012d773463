"""Format figures and names for people."""

import re

from deepcuts.components.core import escape
from deepcuts.components.core.receipts import SETTING, Fact, Facts
from deepcuts.components.core.verdicts import PREFIX, read
from deepcuts.components.ledger.charges import Total

UNKNOWN = "unknown"
NO_BREAK = "\u00a0"
MINUS = re.compile(r"(?<![\w.,−-])-(?=\d)")
"""A hyphen that stands for a minus; in a name or a date it stands behind a letter or a figure."""


def short(text: str, limit: int) -> str:
    """Shorten to one line of at most ``limit`` characters, so that a hostile name cannot fill the page."""
    line = escape.one_line(text)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def money(usd: float | None) -> str:
    """Format dollars: two decimals from one dollar, four below."""
    if usd is None:
        return UNKNOWN
    if 0 < usd < 0.0001:
        return "<$0.0001"
    return f"${usd:,.2f}" if usd >= 1 or usd == 0 else f"${usd:.4f}"


def cost(total: Total) -> str:
    """Format a total, with the number of unknown charges."""
    if total.usd is None:
        return UNKNOWN
    return f"at least {money(total.usd)}, {total.unknown} unknown" if total.unknown else money(total.usd)


def size(count: float) -> str:
    """Format bytes in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1000:  # not 1024, so that three figures always suffice
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:,.4g} TiB"


def duration(seconds: float) -> str:
    """Show seconds as ``12.5 s``, ``3 min 20 s`` or ``1 h 4 min``."""
    if seconds < 99.5:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def number(value: float) -> str:
    """Format counts in full, and measurements to four figures."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e12 else f"{value:,.4g}"


def change(nats: float) -> str:
    """Format nats with a sign, using a real minus sign."""
    return f"{nats:+.3f}".replace("-", "−")


def percent(share: float, digits: int = 0) -> str:
    """Format a share, with a space that no line ends at."""
    return f"{share * 100:,.{digits}f}{NO_BREAK}%"


def tenths(share: float) -> str:
    """Format a share to a tenth of a per cent."""
    return percent(share, 1)


def nats(loss: float) -> str:
    """Format a loss."""
    return f"{loss:.3f}"


def unbroken(text: str) -> str:
    """Return a figure and its unit as one word."""
    return text.replace(" ", NO_BREAK)


def prose(text: str) -> str:
    """Write the figures of a sentence as everywhere else: a real minus, a space before per cent."""
    return re.sub(r"(?<=\d) ?%", f"{NO_BREAK}%", MINUS.sub("−", text))


def evidence(facts: Facts) -> dict[str, str]:
    """Return a step's measurements as label and text, at most 24, without verdicts, settings and names."""
    names = [
        name
        for name in facts
        if not name.startswith((PREFIX, SETTING)) and not name.endswith(("_id", "_digest"))
    ]
    return _readable({name: facts[name] for name in names[:24]})


def verdicts(facts: Facts) -> dict[str, str]:
    """Return the step's verdict on each cut, at most 3."""
    return {short(found.cut, 32): short(str(found), 200) for found in read(facts)[:3]}


def _readable(facts: Facts) -> dict[str, str]:
    return {short(label, 32): short(text, 80) for label, text in map(fact, facts.items())}


def fact(item: tuple[str, Fact]) -> tuple[str, str]:
    """Return (label, text) of a fact, whose unit is part of its name."""
    name, value = item
    words = name.replace("_", " ")
    stem, _, unit = words.rpartition(" ")
    stem = stem or words
    match value, unit:
        case None, _:
            return words, UNKNOWN
        case bool(), _:
            return words, "yes" if value else "no"
        case str(), _:
            return words, value
        case _, "bytes":
            return stem, size(value)
        case _, "seconds":
            return stem, duration(value)
        case _, "usd":
            return stem, money(value)
        case _, "share" | "efficiency":
            return words, percent(value, 2)
        case _:
            return words, number(value)
