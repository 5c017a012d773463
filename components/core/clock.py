"""The one clock. Records are in UTC, ISO 8601, milliseconds; people see the time of their machine."""

import datetime


def now() -> datetime.datetime:
    """Return the time now, in UTC."""
    return datetime.datetime.now(datetime.UTC)


def local() -> datetime.datetime:
    """Return the time now where this machine is."""
    return now().astimezone()


def utc(at: float | None = None) -> str:
    """Return the time now, or at ``at`` (``time.time``): ``2026-11-23T09:15:02.481+00:00``."""
    time = now() if at is None else datetime.datetime.fromtimestamp(at, datetime.UTC)
    return time.isoformat(timespec="milliseconds")


def seconds_since(then: str | datetime.datetime) -> float:
    """Return the seconds from ``then``, a time with its zone or a record of one, until now."""
    begun = datetime.datetime.fromisoformat(then) if isinstance(then, str) else then
    return (now() - begun).total_seconds()
