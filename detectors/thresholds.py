"""What the thresholds of a detector must be: the checks that their configurations share."""

from __future__ import annotations


def require_at_least(config: object, **least: float) -> None:
    """Raise ValueError for a field of ``config`` that is below what stands here, or NaN."""
    for name, bound in least.items():
        value = getattr(config, name)
        if not value >= bound:
            raise ValueError(f"{name} must be >= {bound}, got {value}")


def require_above(config: object, **bounds: float) -> None:
    """Raise ValueError for a field of ``config`` that is not above what stands here, or NaN."""
    for name, bound in bounds.items():
        value = getattr(config, name)
        if not value > bound:
            raise ValueError(f"{name} must be > {bound:g}, got {value}")


def require_share(config: object, *names: str) -> None:
    """Raise ValueError for a field of ``config`` that is not in (0, 1]."""
    for name in names:
        if not 0.0 < (value := getattr(config, name)) <= 1.0:
            raise ValueError(f"{name} must be in (0, 1], got {value}")
