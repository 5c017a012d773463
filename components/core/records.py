"""Read small JSON objects that processes exchange through a store."""

import datetime
from typing import Annotated, TypeVar

import msgspec

from deepcuts.components.core import former_names
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.store import Store
from deepcuts.components.core.strict import MALFORMED

T = TypeVar("T")
Moment = Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)$")]
"""ISO 8601 with an offset from UTC, so that it can be compared with a clock."""


def check_moment(text: str) -> None:
    """Refuse a Moment that is not in the calendar, such as 31 February.

    Raises:
        ValueError: what is wrong with it.
    """
    datetime.datetime.fromisoformat(text)


def read(store: Store, key: str, kind: type[T], fix: str) -> T:
    """Read the object at ``key`` as a ``kind``; names of the previous version are accepted.

    Raises:
        FileNotFoundError: there is no such object.
        DataError: it is damaged; names its URI and ``fix``.
    """
    try:
        return msgspec.json.decode(former_names.current(store.get_bytes(key)), type=kind)
    except MALFORMED as error:
        name = getattr(kind, "__name__", str(kind)).lower()
        raise DataError(f"{store.uri(key)} is damaged, no {name} ({error}): {fix}") from error
