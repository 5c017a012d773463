"""The terminal of the ``deepcuts`` command, safe against control characters in a run's text."""

import enum
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from deepcuts.components.core import escape


class Level(enum.IntEnum):
    """Verbosity of a command."""

    quiet = -1
    normal = 0
    verbose = 1


class Screen(Console):
    r"""A rich console that takes strings as plain text and shows control characters as ``\x1b``."""

    def __init__(self) -> None:
        super().__init__(markup=False, emoji=False)
        self.level = Level.normal

    def note(self, text: RenderableType) -> None:
        """Print a remark on one line, unless the command is quiet."""
        if self.level is not Level.quiet:
            self.print(text, highlight=False, soft_wrap=True)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield rich's segments, including its cursor movements, with text made harmless."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(escape.terminal(segment.text), segment.style)
