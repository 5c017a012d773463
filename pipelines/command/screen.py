"""The terminal that the ``deepcuts`` command writes to: no text of a run reaches it as control characters."""

import enum
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from deepcuts.components.core import escape


class Level(enum.IntEnum):
    """How much a command says."""

    quiet = -1
    normal = 0
    verbose = 1


class Screen(Console):
    r"""A rich console that takes strings as text, not as markup, and shows control characters as ``\x1b``."""

    def __init__(self) -> None:
        super().__init__(markup=False, emoji=False)
        self.level = Level.normal

    def note(self, text: RenderableType) -> None:
        """Print a remark, whole on its line, unless only results are wanted."""
        if self.level is not Level.quiet:
            self.print(text, highlight=False, soft_wrap=True)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield what rich makes of it, its own movements of the cursor included, with harmless text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(escape.terminal(segment.text), segment.style)
