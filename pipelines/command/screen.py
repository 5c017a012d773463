"""The terminal that the ``deepcuts`` command writes to: no text of a run reaches it as control characters."""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from deepcuts.components.core import escape


class Screen(Console):
    r"""A rich console that takes strings as text, not as markup, and shows control characters as ``\x1b``."""

    def __init__(self) -> None:
        super().__init__(markup=False, emoji=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield what rich makes of it, its own movements of the cursor included, with harmless text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(escape.terminal(segment.text), segment.style)
