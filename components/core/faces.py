"""Pass a component's inputs to its step."""

from collections.abc import Mapping


def flags(inputs: Mapping[str, object]) -> dict[str, object]:
    """Map the inputs of a component to the flags of its step: an artifact becomes its path.

    Args:
        inputs: ``locals()`` at the top of the component; ``receipt`` is left out, it has its own flag.
    """
    return {name: getattr(value, "path", value) for name, value in inputs.items() if name != "receipt"}
