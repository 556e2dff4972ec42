"""Whether a short series rises or falls, and by how much, by ranks that outliers cannot sway."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lossguard.detectors.streaming import NORMAL_PER_MAD, median

Floats = npt.NDArray[np.float64]


def mann_kendall(values: Sequence[float]) -> float:
    """How significant the trend of a series is [sigmas; positive: it rises].

    S = number of pairs that rise minus number of pairs that fall, over its standard deviation
    without a trend, sqrt(n (n - 1) (2 n + 5) / 18), with the continuity correction of one
    (Mann, Econometrica 13, 1945; Kendall 1975). 0 for fewer than three values. O(n^2).
    """
    n = len(values)
    if n < 3:
        return 0.0
    x = np.asarray(values, dtype=np.float64)
    s = float(np.sign(x[None, :] - x[:, None])[np.triu_indices(n, 1)].sum())
    sigma = math.sqrt(n * (n - 1) * (2 * n + 5) / 18.0)
    return math.copysign(max(abs(s) - 1.0, 0.0), s) / sigma


def flicker(values: Sequence[float]) -> float:
    """Sigma of the noise on a trend that may be steep [unit of the values].

    1.4826 median |x[i-1] - 2 x[i] + x[i+1]| / sqrt(6): second differences, which a straight line
    leaves at zero, in place of the first ones of ``streaming.noise``.
    """
    if len(values) < 3:
        return 0.0
    bends = [abs(a - 2.0 * b + c) for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    return NORMAL_PER_MAD * median(bends) / math.sqrt(6.0)


def theil_sen(values: Sequence[float]) -> float:
    """The slope of a series of equal distances [unit of the values per index].

    The median of the slopes of all pairs (Theil 1950; Sen, JASA 63, 1968). 0 for one value.
    O(n^2).
    """
    n = len(values)
    if n < 2:
        return 0.0
    x = np.asarray(values, dtype=np.float64)
    first, second = np.triu_indices(n, 1)
    return float(np.median((x[second] - x[first]) / (second - first)))
