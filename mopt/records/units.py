"""Numbers as people read them: three digits, a unit, an interval."""

from __future__ import annotations

__all__ = [
    "about",
    "count",
    "digits",
    "interval",
    "is_share",
    "memory",
    "milliseconds",
    "points",
    "rate",
    "ratio",
    "seconds",
    "share",
    "signed",
]

import math
import re

MINUS = "\N{MINUS SIGN}"
_SHARES = re.compile(r"accuracy|agreement|precision|recall|f1|top[-_]?\d|exact|auc|iou", re.IGNORECASE)


def is_share(metric: str) -> bool:
    """Whether a metric counts how many of all, so that its differences are percentage points."""
    return bool(_SHARES.search(metric))


def digits(value: float, significant: int = 3) -> str:
    """Round to significant digits, without an exponent for everyday sizes."""
    if not math.isfinite(value):
        return "\N{INFINITY}" if value > 0 else f"{MINUS}\N{INFINITY}" if value < 0 else "not a number"
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if magnitude < -4 or magnitude > 8:
        text = f"{value:.{significant - 1}e}"
    else:
        text = f"{value:,.{max(0, significant - 1 - magnitude)}f}"
    return text.replace("-", MINUS)


def milliseconds(value: float) -> str:
    """A time that is given in milliseconds, in the unit that fits."""
    if value < 0.0995:
        return f"{digits(value * 1e3)} µs"
    return f"{digits(value)} ms" if value < 9995 else f"{digits(value / 1e3)} s"


def seconds(value: float) -> str:
    """A time that is given in seconds."""
    if value < 99.5:
        return milliseconds(value * 1e3) if value < 0.995 else f"{digits(value, 2)} s"
    return f"{int(value // 60)} min {int(value % 60)} s"


def about(value: float) -> str:
    """A time that is given in seconds and known only roughly."""
    if value < 57.5:
        return f"{max(5, 5 * round(value / 5))} s"
    return f"{max(1, round(value / 60))} min" if value < 5400 else f"{round(value / 3600)} h"


def memory(size: float) -> str:
    """Bytes, in powers of 1000."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{digits(size / scale)} {unit}"
    return f"{size:.0f} bytes"


def rate(value: float) -> str:
    """Samples for each second."""
    return f"{digits(value)} /s"


def ratio(value: float) -> str:
    """A speed-up: 1 is no change."""
    return f"{digits(value)}\N{MULTIPLICATION SIGN}"


def interval(low: float, high: float) -> str:
    """The interval of a ratio."""
    return f"{digits(low)} to {digits(high)}"


def count(value: int, noun: str) -> str:
    """A number with its noun, plural where it must be."""
    return f"{value:,} {noun}{'' if value == 1 else 's'}"


def share(value: float, metric: str) -> str:
    """The value of a metric."""
    return f"{digits(value * 100, 4)} %" if is_share(metric) else digits(value, 4)


def points(value: float, metric: str) -> str:
    """How far apart two values of a metric are, without a sign."""
    return f"{digits(abs(value) * 100)} pp" if is_share(metric) else digits(abs(value))


def signed(value: float, metric: str) -> str:
    """A difference of a metric with its sign; negative is worse."""
    sign = "+" if value > 0 else MINUS if value < 0 else "±"
    return f"{sign}{points(value, metric)}"
