"""The one clock of records: UTC, ISO 8601, milliseconds."""

import datetime


def utc(at: float | None = None) -> str:
    """Return the time now, or at ``at`` (``time.time``): ``2026-11-23T09:15:02.481+00:00``."""
    time = (
        datetime.datetime.now(datetime.UTC)
        if at is None
        else datetime.datetime.fromtimestamp(at, datetime.UTC)
    )
    return time.isoformat(timespec="milliseconds")
