"""Count the seconds a training has been paid for, and check whether its budget allows another step."""

import time

import msgspec

from deepcuts.components.core import records
from deepcuts.components.core.bounds import NonNegative
from deepcuts.components.core.receipts import process_start
from deepcuts.components.core.store import Store


class BudgetClock:
    """Seconds since the start of this process, when billing starts, plus those of earlier attempts.

    Earlier seconds are stored at every save, so a killed attempt's time after its last save is not counted.
    The constructor and ``remember`` raise StoreError.
    """

    def __init__(self, store: Store, training_id: str, budget_seconds: float) -> None:
        self._store, self._key, self._budget = store, f"trainings/{training_id}/seconds", budget_seconds
        self._began, self.is_over = process_start(), False
        try:
            fix = "write the seconds paid for so far as a number, or delete it for 0"
            self.earlier_seconds = records.read(store, self._key, NonNegative, fix)
        except FileNotFoundError:
            self.earlier_seconds = 0.0

    @property
    def seconds(self) -> float:
        """Return the seconds of all attempts."""
        return self.earlier_seconds + time.time() - self._began

    def out_of_time(self, seconds: float) -> bool:
        """Tell whether ``seconds`` more would exceed the training's budget, and if so set ``is_over``."""
        self.is_over |= bool(self._budget) and self.seconds + seconds > self._budget
        return self.is_over

    def remember(self) -> None:
        """Store the seconds for the next attempt."""
        self._store.put_bytes(self._key, msgspec.json.encode(self.seconds))
