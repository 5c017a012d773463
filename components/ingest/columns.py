"""Map columns of a table with any headings to one of the formats."""

import re
from collections.abc import Collection, Mapping, Sequence

from deepcuts.components.core import strict
from deepcuts.components.core.errors import DataError
from deepcuts.components.ingest.rows import Cells

ABSENT = object()
"""Marks a missing cell, as opposed to null."""
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
"""Roles to which a column may be mapped."""
OPTIONAL = ("system", "history", "tools", "id", "source")
"""Roles that some rows may lack."""
READ = {
    "messages": ("messages", "system", "tools"),
    "prompt_completion": ("prompt", "completion", "system", "history", "tools", "label"),
    "preference": ("prompt", "chosen", "rejected", "system", "tools"),
    "text_label": ("text", "label", "system", "tools"),
    "text": ("text",),
}
"""Roles read by each format, in addition to ``id`` and ``source``; for classes, prompt means text."""
LIKELY = {
    "prompt": (
        *("prompt", "question", "query", "instruction", "problem", "input", "user", "human", "document"),
        *("article", "source", "sentence", "review", "content", "body", "title", "subject"),
    ),
    "completion": (
        *("completion", "answer", "answers", "response", "output", "target", "assistant", "summary"),
        *("highlights", "reply", "solution", "ideal", "gold"),
    ),
    "label": (
        *("label", "labels", "class", "category", "sentiment", "topic", "team", "queue", "department"),
        *("tag", "rating", "stars"),
    ),
    "system": ("system", "system_prompt"),
}
"""Column names for a proposed mapping, by role, likeliest first; never used without being asked."""


def check(columns: Mapping[str, str]) -> None:
    """Raise ValueError, one problem per line, unless all keys are ``ROLES`` and something can be learned."""
    found = [strict.unknown_key("columns", role, ROLES) for role in columns if role not in ROLES]
    for role, column in columns.items():
        if not isinstance(column, str) or not column.strip():
            found.append(f"columns.{role}: {column!r} is not a column name: give one")
    if columns and not found and not format_of(columns):
        found.append(
            f"columns {', '.join(columns)}: nothing to learn: map prompt and completion, prompt "
            "(or text) and label, messages, chosen, or text"
        )
    found = found or [*_unread(columns), *_twice(columns)]
    if found:
        raise ValueError("\n".join(found))


def _unread(columns: Mapping[str, str]) -> list[str]:
    """Return a problem for each role that the format would ignore."""
    form = format_of(columns)
    read = {*READ.get(form, ROLES), "id", "source"}
    if form == "text_label" and "text" not in columns:
        read.add("prompt")
    if "label" in columns and "source" in columns:
        read -= {"label"} if form == "prompt_completion" else set()  # the class becomes the completion
    return [
        f"columns.{role}: not read with {', '.join(sorted(read & columns.keys()))}, which make format {form}"
        f": leave it out{', or write prompt for text' * (role == 'completion')}"
        for role in columns
        if role not in read
    ]


def _twice(columns: Mapping[str, str]) -> list[str]:
    """Return a problem for each column that is mapped twice."""
    taken: dict[str, str] = {}
    found = []
    for role, column in columns.items():
        before = taken.setdefault(column.strip().lower(), role)
        if before != role and "id" not in (before, role) and "source" not in (before, role):
            found.append(f"columns.{role}: {column!r} is {before} already: name another column")
    return found


def format_of(columns: Mapping[str, str]) -> str:
    """Return the format of rows with this mapping; empty if there would be nothing to learn."""
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


def renamed(row: Cells, columns: Mapping[str, str]) -> dict[str, object]:
    """Rename the mapped columns of ``row`` to the names that the formats know.

    An unmapped column with such a name is renamed, so that it is not mistaken for a mapped one.

    Raises:
        DataError: a mapped column is missing.
    """
    if missing := _missing(row, columns):
        raise DataError(
            f"no column {missing[0]!r}, the row has {', '.join(sorted(map(str, row)))[:200]}: correct columns"
        )
    used = top(columns)
    result = {f"{key} (not mapped)": value for key, value in row.items() if key not in used}
    result |= {
        role: _inner(row, column) for role, column in columns.items() if _inner(row, column) is not ABSENT
    }
    if "label" in result and "completion" not in result and "prompt" in result and "text" not in result:
        result["text"] = result.pop("prompt")
    if "completion" in result and "label" in result:  # an answer longer than its class
        result.setdefault("source", result.pop("label"))
    if "chosen" in result:
        result.setdefault("rejected", None)
    return result


def top(columns: Mapping[str, str]) -> set[str]:
    """Return the columns that a mapping reads; for ``answers.text`` that is ``answers``."""
    names = {column.strip().lower() for column in columns.values()}
    return names | {name.partition(".")[0] for name in names}


def check_rows(rows: Sequence[Cells], columns: Mapping[str, str]) -> None:
    """Raise DataError, showing values, if none of the first ``rows`` has a mapped column."""
    absent = [c for c in columns.values() if all(_inner(row, c) is ABSENT for row in rows)]
    if rows and absent:
        names = ", ".join(repr(column.strip().lower()) for column in absent)
        raise DataError(f"no column {names}: correct columns, the data has\n{shown(rows)}")


def _missing(row: Cells, columns: Mapping[str, str]) -> list[str]:
    needed = [column for role, column in columns.items() if role not in OPTIONAL]
    return [column.strip().lower() for column in needed if _inner(row, column) is ABSENT]


def _inner(row: Cells, column: str) -> object:
    """Return a cell, or a field in it (``translation.en``); ABSENT if there is none."""
    name = column.strip().lower()
    if name in row:
        return row[name]
    value: object = row
    for part in name.split("."):
        if not isinstance(value, Mapping):
            return ABSENT
        value = {str(key).lower(): item for key, item in value.items()}.get(part, ABSENT)
    return value


def needs(groups: Sequence[Sequence[str]]) -> str:
    """Describe the columns a format needs."""
    single = [group[0] for group in groups if len(group) == 1]
    several = [f"one of {'/'.join(group)}" for group in groups if len(group) > 1]
    return " and ".join(single + several)


def mapping_for(rows: Sequence[Cells]) -> str:
    """Suggest a mapping by the columns' names, else of the first two text columns.

    Unknown columns are shown as COLUMN; a field within a column is ``column.field``.
    """
    cells = _cells(rows)
    found = {role: _likeliest(known, cells) for role, known in LIKELY.items()}
    if found["completion"]:
        found["label"] = ""
    turns = [name for name, values in cells.items() if any(map(_holds_turns, values))]
    if turns and not found["completion"]:
        return f"{{messages: {turns[0]}}}"
    texts = [name for name, values in cells.items() if all(isinstance(value, str) for value in values)]
    if texts == [*cells] and len(texts) == 1:
        return f"{{text: {texts[0]}}}"
    learned = "label" if found["label"] else "completion"
    if not found["prompt"] and not found[learned] and len(texts) == 2:
        found |= {"prompt": texts[0], "completion": texts[1]}
    found |= {role: found[role] or "COLUMN" for role in ("prompt", learned)}
    return f"{{{', '.join(f'{role}: {name}' for role, name in found.items() if name)}}}"


def _cells(rows: Sequence[Cells]) -> dict[str, list[object]]:
    """Return the values of each column, or of each field if a column holds objects."""
    found: dict[str, list[object]] = {}
    for row in rows:
        for name, value in row.items():
            inner = (
                {f"{name}.{key}": item for key, item in value.items()} if isinstance(value, Mapping) else {}
            )
            for key, item in (inner or {name: value}).items():
                found.setdefault(key, []).append(item)
    return found


def _likeliest(known: Sequence[str], names: Collection[str]) -> str:
    """Return the column named like one of ``known``, else one with such a word in its name."""
    if exact := next((name for name in known if name in names), ""):
        return exact
    words = {name: re.split(r"[\W_]+", name.lower()) for name in names}
    return next((name for word in known for name in names if word in words[name]), "")


def _holds_turns(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def shown(rows: Sequence[Cells]) -> str:
    """Show every column with its first three values, one per line."""
    names = sorted({str(key) for row in rows for key in row})[:30]
    lines = []
    for name in names:
        values = [str(row[name]) for row in rows if row.get(name) not in (None, "")][:3]
        lines.append(f"  {name[:40]}: " + " | ".join(" ".join(value.split())[:60] for value in values))
    return "\n".join(lines)
