"""How numbers are written: short, steady in width, and honest about NaN and Inf."""

from __future__ import annotations

import math

UNKNOWN = "—"
TICK_CELLS = 7


def value(number: float | None) -> str:
    """About four significant digits, in at most nine cells."""
    if number is None:
        return UNKNOWN
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Inf" if number > 0 else "-Inf"
    size = abs(number)
    if size == 0:
        return "0"
    if size < 1e-3 or size >= 1e7:
        return exponent(f"{number:.2e}")
    if number == int(number) and size >= 100:
        return f"{int(number):,}"
    if size >= 1000:
        return f"{number:,.0f}"
    return f"{number:.4g}" if size < 100 else f"{number:.1f}"


def exact(number: float) -> str:
    """Seven significant digits: all that a float32 holds."""
    if not math.isfinite(number):
        return value(number)
    return f"{number:.7g}"


def exponent(text: str) -> str:
    """``3.00e-04`` as ``3e-4``."""
    mantissa, _, power = text.partition("e")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(power)}" if power else mantissa


def tick(number: float, spacing: float) -> str:
    """An axis label of at most ``TICK_CELLS``, telling neighbours ``spacing`` apart if it can."""
    if number == 0:
        return "0"
    size = abs(number)
    if 1e-3 <= size < 1e5:
        decimals = min(6, max(0, -math.floor(math.log10(spacing)))) if spacing > 0 else 2
        if size >= 1e4 and number % 100 == 0:
            return f"{number / 1000:g}k"
        if len(text := f"{number:.{decimals}f}") <= TICK_CELLS:
            return text
    for digits in (2, 1):
        if len(text := exponent(f"{number:.{digits}e}")) <= TICK_CELLS:
            return text
    return exponent(f"{number:.0e}")


def step(number: int) -> str:
    """A step in full, with separators."""
    return f"{number:,}"


def short_step(number: int, spacing: int = 0) -> str:
    """A step in few cells: 950, 12.3k, 4M; in full where ``spacing`` needs more digits."""
    size = abs(number)
    if 0 < spacing < size / 5000:
        return f"{number:,}"
    for unit, name in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if size >= unit:
            return f"{number / unit:.4g}{name}"
    return str(number)


def seconds(duration_s: float) -> str:
    """A duration in its natural unit; takes seconds."""
    if not math.isfinite(duration_s):
        return UNKNOWN
    size = abs(duration_s)
    if size < 1e-3:
        return f"{duration_s * 1e6:.0f} µs"
    if size < 1:
        return f"{duration_s * 1e3:.3g} ms"
    if size < 100:
        return f"{duration_s:.3g} s"
    return ago(duration_s)


def size(number: float) -> str:
    """Bytes in the unit that reads best."""
    if not math.isfinite(number):
        return UNKNOWN
    for unit, name in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if number >= unit:
            return f"{number / unit:.3g} {name}"
    return f"{number:.0f} B"


def ago(duration_s: float) -> str:
    """A time span in whole units: 12 s, 3 min, 2 h 05, 4 d."""
    whole = max(0, int(duration_s))
    if whole < 90:
        return f"{whole} s"
    if whole < 5400:
        return f"{whole // 60} min"
    if whole < 172_800:
        return f"{whole // 3600} h {whole % 3600 // 60:02d}"
    return f"{whole // 86_400} d"


def rate(steps_per_s: float) -> str:
    """Steps a second, or seconds a step where that reads better."""
    if not math.isfinite(steps_per_s) or steps_per_s <= 0:
        return UNKNOWN
    if steps_per_s >= 0.1:
        return f"{steps_per_s:,.3g}/s" if steps_per_s < 1000 else f"{steps_per_s:,.0f}/s"
    return f"{1 / steps_per_s:.3g} s/step"
