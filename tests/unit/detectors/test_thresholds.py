"""A threshold that makes no sense is refused by name, with its value."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest

from lossguard.detectors.thresholds import require_above, require_at_least, require_share


@dataclass(frozen=True)
class Config:
    """Of some detector."""

    x: float


@pytest.mark.parametrize("x", [0.9, -math.inf, math.nan])
def test_too_low_is_refused(x: float) -> None:
    """NaN too, which compares to nothing."""
    with pytest.raises(ValueError, match=rf"^x must be >= 1, got {x}$"):
        require_at_least(Config(x), x=1)
    require_at_least(Config(1.0), x=1)


@pytest.mark.parametrize("x", [1.0, math.nan])
def test_not_above_is_refused(x: float) -> None:
    """The bound itself is not above it."""
    with pytest.raises(ValueError, match=rf"^x must be > 1, got {x}$"):
        require_above(Config(x), x=1.0)
    require_above(Config(1.1), x=1.0)


@pytest.mark.parametrize("x", [0.0, 1.1, math.nan])
def test_no_share_is_refused(x: float) -> None:
    """All of it is a share, nothing is not."""
    with pytest.raises(ValueError, match=rf"^x must be in \(0, 1\], got {x}$"):
        require_share(Config(x), "x")
    require_share(Config(1.0), "x")
