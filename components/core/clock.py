"""The only clock. Records are in UTC, ISO 8601, to the millisecond; people see their local time."""

import datetime


def now() -> datetime.datetime:
    """Return the current time in UTC."""
    return datetime.datetime.now(datetime.UTC)


def local() -> datetime.datetime:
    """Return the current time in this machine's zone."""
    return now().astimezone()


def utc(at: float | None = None) -> str:
    """Format the current time, or ``at`` (``time.time``): ``2026-11-23T09:15:02.481+00:00``."""
    time = now() if at is None else datetime.datetime.fromtimestamp(at, datetime.UTC)
    return time.isoformat(timespec="milliseconds")


def seconds_since(then: str | datetime.datetime) -> float:
    """Return the seconds since ``then``, a time with a zone or its text."""
    begun = datetime.datetime.fromisoformat(then) if isinstance(then, str) else then
    return (now() - begun).total_seconds()
