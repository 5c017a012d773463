"""Read which turns are learned, in other tools' terms: weight 0, loss false, train false, masked true."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from deepcuts.components.core.errors import DataError
from deepcuts.components.core.examples import Role

LEARNED = ("weight", "loss", "loss_weight", "loss_scale", "train", "training", "train_on_turn", "trainable")
"""Keys that tools use to mark a turn as learned: 1 or true, 0 or false."""
MASKED = ("masked", "ignore_loss")
"""The same with the opposite meaning."""
UNCLEAR = {
    "mask": "1 masks the turn in some tools and learns it in others",
    "loss_mask": "1 masks the turn in some tools and learns it in others",
    "train_detail": "parts of a turn cannot be masked",
}
"""Keys that are refused, with the reason: a wrong guess could train on a turn that must not be learned."""
SWITCH = {"1": 1, "1.0": 1, "true": 1, "yes": 1, "0": 0, "0.0": 0, "false": 0, "no": 0}


def weight(turn: Mapping[str, Any], role: Role, changes: Counter[str]) -> Literal[0, 1]:
    """Return 0 if a key of ``LEARNED`` or ``MASKED`` masks an assistant turn, else 1.

    Raises:
        DataError: a value is invalid, keys contradict each other, or a key is one of ``UNCLEAR``.
    """
    said = {key: turn[key] for key in (*LEARNED, *MASKED, *UNCLEAR) if not _is_absent(turn.get(key))}
    if role != "assistant":
        if any(
            SWITCH.get(str(said[key]).strip().lower()) and key != "weight" for key in LEARNED if key in said
        ):
            changes[f"{role} turns marked to be learned, not learned"] += 1
        return 1
    found: dict[str, Literal[0, 1]] = {}
    for key, value in said.items():
        if key in UNCLEAR:
            raise DataError(f"turn key {key!r}: {UNCLEAR[key]}: write weight, 1 (learned) or 0 (masked)")
        switch = SWITCH.get(str(value).strip().lower())
        if switch is None:
            shown = str(value)[:20]
            raise DataError(
                f"{key} {shown}: a turn is learned (1, true) or masked (0, false): give one, or rename it"
            )
        found[key] = 0 if (switch == 0) != (key in MASKED) else 1
    if len(set(found.values())) > 1:
        both = ", ".join(f"{key} {str(said[key])[:20]}" for key in found)
        raise DataError(f"{both} contradict each other: keep the right one")
    masking = next((key for key, learned in found.items() if not learned), "")
    if masking:
        changes[f"assistant turns masked by {masking}, context only"] += 1
    return 0 if masking else 1


def _is_absent(value: object) -> bool:
    """Tell whether a cell is empty: null, or pandas' NaN."""
    return value is None or value == "" or value != value
