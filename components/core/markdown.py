"""Write Markdown tables for reports, shown by the Kubeflow UI and in a terminal."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[int] = ()) -> str:
    """Return a Markdown table without a trailing newline.

    Line breaks and bars would end a cell, so both are escaped; other markup is up to the caller
    (``core/escape.py``).

    Args:
        head: Column titles; may be empty.
        rows: One cell per column.
        right: Indices of right-aligned columns.
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
