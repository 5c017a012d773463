"""Tables of the Markdown reports, which the Kubeflow UI and a terminal show."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[int] = ()) -> str:
    """Return a Markdown table without a trailing newline.

    A line break or a bar inside a cell would end the cell, so both are escaped; other markup is left to
    the caller (``core/escape.py``).

    Args:
        head: Titles of the columns; empty ones are allowed.
        rows: A cell per column.
        right: Columns aligned to the right, from 0.
    """
    rule = ["--:" if column in right else "---" for column in range(len(head))]
    lines = [_line(head), f"|{'|'.join(rule)}|", *(_line(row) for row in rows)]
    return "\n".join(lines)


def _line(cells: Sequence[object]) -> str:
    shown = (" ".join(str(cell).splitlines()) for cell in cells)
    return "| " + " | ".join(_bars(cell) for cell in shown) + " |"


def _bars(cell: str) -> str:
    """Escape bars that are not escaped yet."""
    return cell.replace("\\|", "|").replace("|", "\\|")
