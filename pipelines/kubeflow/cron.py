"""Check cron expressions of schedules like Kubeflow Pipelines and Kubernetes read them."""

import re

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
BOUNDS = {
    "second": (0, 59),
    "minute": (0, 59),
    "hour": (0, 23),
    "day": (1, 31),
    "month": (1, 12),
    "weekday": (0, 6),
}
"""Bounds of each field; Go's cron, which both use, has no weekday 7."""
NAMES = {
    "month": dict(zip(MONTHS, range(1, 13), strict=True)),
    "weekday": dict(zip(DAYS, range(7), strict=True)),
}
PART = re.compile(r"(?:[*?]|(?P<low>\w+)(?:-(?P<high>\w+))?)(?:/(?P<step>\d+))?")


def check(cron: str) -> None:
    """Raise ValueError unless ``cron`` is minute, hour, day, month and weekday."""
    _check(cron, [5])


def six_fields(cron: str) -> str:
    """Return a cron expression in KFP's form, with seconds first.

    Raises:
        ValueError: it has neither 5 nor 6 fields, or one is out of its bounds.
    """
    _check(cron, [5, 6])
    fields = cron.split()
    return " ".join(["0", *fields] if len(fields) == 5 else fields)


def _check(cron: str, counts: list[int]) -> None:
    fields = cron.split()
    if len(fields) not in counts:
        raise ValueError(
            f"--cron {cron!r} has {len(fields)} fields: give 5 (minute hour day month weekday), UTC"
        )
    for name, field in zip([*BOUNDS][-len(fields) :], fields, strict=True):
        if not all(_fits(part.lower(), name) for part in field.split(",")):
            low, high = BOUNDS[name]
            raise ValueError(f"--cron {cron!r}: {field!r} is not a {name}: give *, */n, or {low} to {high}")


def _fits(part: str, name: str) -> bool:
    found = PART.fullmatch(part)
    if not found or found["step"] is not None and int(found["step"]) < 1:
        return False
    names, (least, most) = NAMES.get(name, {}), BOUNDS[name]
    given = [text for text in (found["low"], found["high"]) if text is not None]
    if not all(text in names or text.isdecimal() for text in given):
        return False
    values = [names[text] if text in names else int(text) for text in given]
    return values == sorted(values) and all(least <= value <= most for value in values)
