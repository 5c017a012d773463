"""Loss: prefer examples that the base model finds neither trivial nor hopeless."""

from collections.abc import Sequence


def middling(nats_per_token: Sequence[float]) -> list[int]:
    """Order all rows from the median loss to the easiest and hardest."""
    ascending = sorted(range(len(nats_per_token)), key=lambda row: (nats_per_token[row], row))
    middle = (len(ascending) - 1) / 2
    places = sorted(range(len(ascending)), key=lambda place: (abs(place - middle), place))
    return [ascending[place] for place in places]
