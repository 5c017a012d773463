"""Columns by name: a table of any headings as one of the formats."""

from collections.abc import Mapping, Sequence

from deepcuts.components.core import strict
from deepcuts.components.core.errors import DataError

Row = Mapping[str, object]
ROLES = {
    "messages": "the turns",
    "prompt": "the question",
    "completion": "the answer",
    "text": "the text of a class, or plain text",
    "label": "the class",
    "system": "the system turn",
    "history": "earlier turns",
    "tools": "functions that may be called",
    "chosen": "the better answer of a pair",
    "rejected": "the worse one",
    "id": "the row's name",
    "source": "where the row comes from",
}
"""What a column may be mapped to."""
OPTIONAL = ("system", "history", "tools", "id", "source")
"""Rows may lack these."""


def check(columns: Mapping[str, str]) -> None:
    """Raise ValueError unless every key is one of ``ROLES`` and there is something to learn."""
    for role, column in columns.items():
        if role not in ROLES:
            raise ValueError(strict.unknown_key("columns", role, ROLES))
        if not isinstance(column, str) or not column.strip():
            raise ValueError(f"columns.{role}: {column!r} is no column name: give one")
    if columns and not format_of(columns):
        raise ValueError(
            f"columns {', '.join(columns)}: that names nothing to learn: map prompt and completion, prompt "
            "(or text) and label, messages, chosen, or text"
        )


def format_of(columns: Mapping[str, str]) -> str:
    """Return the format that a mapping makes of a row; empty if there would be nothing to learn."""
    given = set(columns)
    if "messages" in given:
        return "messages"
    if "prompt" in given and "completion" in given:
        return "prompt_completion"
    if "chosen" in given:
        return "preference"
    if "label" in given and given & {"prompt", "text"}:
        return "text_label"
    return "text" if "text" in given else ""


def renamed(row: Row, columns: Mapping[str, str]) -> dict[str, object]:
    """Return ``row`` with the mapped columns under the names that the formats know.

    A column that has such a name and is not mapped is put out of the way, so that it is not taken for one.

    Raises:
        DataError: a mapped column is not there.
    """
    names = {role: column.strip().lower() for role, column in columns.items()}
    needed = [column for role, column in names.items() if role not in OPTIONAL]
    if missing := [column for column in needed if column not in row]:
        raise DataError(
            f"no column {missing[0]!r}, the row has {', '.join(sorted(map(str, row)))[:200]}: correct columns"
        )
    result = {f"{key} (not mapped)": value for key, value in row.items() if key not in names.values()}
    result |= {role: row[column] for role, column in names.items() if column in row}
    if "label" in result and "completion" not in result and "prompt" in result and "text" not in result:
        result["text"] = result.pop("prompt")
    if "completion" in result and "label" in result:  # the class of an answer that is more than the class
        result.setdefault("source", result.pop("label"))
    if "chosen" in result:
        result.setdefault("rejected", None)
    return result


def needs(groups: Sequence[Sequence[str]]) -> str:
    """Return what a row of a format must have, in words."""
    single = [group[0] for group in groups if len(group) == 1]
    several = [f"one of {'/'.join(group)}" for group in groups if len(group) > 1]
    return " and ".join(single + several)


def shown(rows: Sequence[Row]) -> str:
    """Return every column with its first three values, a line each."""
    names = sorted({str(key) for row in rows for key in row})[:30]
    lines = []
    for name in names:
        values = [str(row[name]) for row in rows if row.get(name) not in (None, "")][:3]
        lines.append(f"  {name[:40]}: " + " | ".join(" ".join(value.split())[:60] for value in values))
    return "\n".join(lines)
