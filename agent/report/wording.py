"""Numbers, times and counts as people write them."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence


def number(value: float) -> str:
    """Four digits, and no more zeros than it takes.

    >>> number(2.156312), number(20000.0), number(1.5e-05), number(math.nan)
    ('2.156', '20,000', '1.5e-5', 'NaN')
    """
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Inf" if value > 0 else "-Inf"
    if 1000 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    return f"{value:.4g}".replace("e-0", "e-").replace("e+0", "e+") if value else "0"


def counted(count: int, thing: str) -> str:
    """
    >>> counted(1, "step"), counted(12000, "step"), counted(0, "skip")
    ('1 step', '12,000 steps', 'no skips')
    """
    return f"{count:,} {thing}" if count == 1 else f"{f'{count:,}' if count else 'no'} {thing}s"


def joined(parts: Sequence[str]) -> str:
    """
    >>> joined(["a", "b", "c"]), joined(["a"])
    ('a, b and c', 'a')
    """
    return " and ".join(part for part in (", ".join(parts[:-1]), *parts[-1:]) if part)


def duration(seconds: float) -> str:
    """
    >>> duration(0.25), duration(42.4), duration(125), duration(7265), duration(200000)
    ('0.2 s', '42 s', '2 min 5 s', '2 h 1 min', '2 d 7 h')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit, size, below, smaller in (("d", 86400, "h", 3600), ("h", 3600, "min", 60),
                                       ("min", 60, "s", 1)):  # fmt: skip
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {below}" if rest else "")
    return f"{whole} s"


def clock(seconds: float) -> str:
    """Wall clock, in the zone of whoever makes the report."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(seconds)).strip()
    except (OverflowError, ValueError, OSError):
        return "at an unknown time"


def steps(first: int, last: int) -> str:
    """
    >>> steps(7, 7), steps(7, 1200)
    ('step 7', 'steps 7 to 1,200')
    """
    return f"step {first:,}" if first == last else f"steps {first:,} to {last:,}"


def sentence(text: str) -> str:
    """
    >>> sentence("the loss jumps")
    'The loss jumps.'
    """
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
