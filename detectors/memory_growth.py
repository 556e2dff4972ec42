"""Memory that grows towards its end, or lies in pieces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lossguard.detectors.base import Finding, Observation, Severity, Symptom
from lossguard.detectors.block_maxima import BlockMaxima
from lossguard.detectors.episodic import EpisodicDetector
from lossguard.detectors.memory_pieces import Pieces
from lossguard.detectors.memory_trend import KEPT, MemoryTrend, leap, trends
from lossguard.detectors.rewinding import Inputs
from lossguard.detectors.thresholds import require_above, require_at_least, require_share

_ABSURD = 1e16
"""No machine has so many bytes."""
_CALM_BLOCKS = 2
_BACK_BLOCKS = 5
_RISING_BLOCKS = 4
_GB = 1e9


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryGrowthConfig:
    """Thresholds. Sources in the docstring of ``MemoryGrowth``."""

    block: int = 32
    """Observations whose maximum counts, on the shortest scale [>= 8]."""
    warm_up: int = 256
    """First observations, which do not count: caches fill, optimizers make their state [>= 0]."""
    horizon: float = 20.0
    """How far a trend is believed, in lengths of the window it is taken from [> 0]."""
    least: float = 0.01
    """Growth within the window, relative to the level, that matters [> 0]."""
    full: float = 0.97
    """Share of the device's memory at which growth is critical [0 < share <= 1]."""
    leap: float = 0.03
    """Growth over four blocks, of the device's memory, that is growth however short [> 0]."""
    doubled: float = 2.0
    """Multiple of its lowest level at which growing memory of the process is worth a look [> 1]."""
    pieces: float = 1.5
    """Reserved memory, in units of the allocated, that is much [> 1]."""
    pieces_full: float = 0.9
    """Share of the device's memory that is then reserved [0 < share <= 1]."""
    pieces_growth: float = 1.05
    """Growth of the reserved memory that comes with it [factor, >= 1]."""
    pieces_blocks: int = 5
    """Blocks in a row for which that must hold [>= 1]."""

    def __post_init__(self) -> None:
        require_at_least(self, block=8, warm_up=0, pieces_growth=1, pieces_blocks=1)
        require_above(self, horizon=0.0, least=0.0, leap=0.0)
        require_share(self, "full", "pieces_full")
        require_above(self, doubled=1.0, pieces=1.0)


class MemoryGrowth(EpisodicDetector):
    """Flag memory whose steady growth foresees its end, and reserved memory that lies in pieces.

    Trends are taken from the maxima of the last 20 blocks of 32, 512 and 8192 observations, after
    the first 256, by ``steady_growth`` (Theil-Sen, still going on). The growth must be 1 % of the
    level, and lead higher than what is remembered from before it, or into the last 3 %:

    *Device*: memory_allocated is foreseen to be memory_total within 20 windows: a warning;
    critical above 97 % of it while it grows, also where it has risen in four blocks by 3 %.
    *Process*: rss is foreseen to be twice its lowest remembered level within 20 windows: a line,
    for files mapped into memory look like that until they have been read once; a warning
    when it is twice that and grows on. Where the device's total is unknown it is judged like this.
    *Pieces*: memory_reserved > 1.5 x memory_allocated and > 90 % of the total, having grown by
    5 %: a line; the allocator cannot use what it holds.

    Two blocks without growth end an episode. Saw teeth (garbage collection), growth that slows
    down and plateaus are no trend.
    """

    symptom: ClassVar[Symptom] = Symptom.MEMORY_GROWTH
    inputs: ClassVar[tuple[str, ...]] = (
        "rss",
        "memory_allocated",
        "memory_reserved",
        "memory_total",
    )

    def __init__(self, config: MemoryGrowthConfig | None = None) -> None:
        super().__init__()
        c = self.config = config or MemoryGrowthConfig()
        self._maxima = [BlockMaxima(c.block, KEPT) for _ in range(2)]
        self._pieces = Pieces(c.block)
        self._total = 0.0
        self._seen = 0

    def inputs_of(self, observation: Observation) -> Inputs | None:
        """The four metrics, where the process or the device was measured."""
        get = observation.values.get
        rss, allocated = get("rss"), get("memory_allocated")
        if rss is None and allocated is None:
            return None
        return rss, allocated, get("memory_reserved"), get("memory_total")

    def judge(self, step: int, inputs: Inputs) -> Finding | None:
        """Take in one step."""
        rss, allocated, reserved, total = inputs
        if total is not None and 1.0 <= total < _ABSURD:
            self._total = total
        if self._seen < self.config.warm_up:
            self._seen += 1
            return None
        found = None
        if allocated is not None and 1.0 <= allocated < (1.5 * self._total or _ABSURD):
            if reserved is not None and 1.0 <= reserved < _ABSURD:
                self._pieces.push(step, reserved)
            scales = self._maxima[1].push(step, allocated)
            if scales:
                found = self._device(step, scales)
        if rss is not None and 1.0 <= rss < _ABSURD:
            scales = self._maxima[0].push(step, rss)
            if scales:
                found = found or self._by_doubling(step, 0, scales, "rss")
        return found

    def save(self) -> dict[str, Any]:
        """The state that ``judge`` works on."""
        return super().save() | {
            "maxima": [maxima.state() for maxima in self._maxima],
            "pieces": self._pieces.state(),
            "numbers": [self._total, self._seen],
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Put back what ``save`` gave."""
        super().load(saved)
        for maxima, state in zip(self._maxima, saved["maxima"], strict=True):
            maxima.restore(state)
        self._pieces.restore(saved["pieces"])
        self._total, self._seen = saved["numbers"]

    def _device(self, step: int, scales: int) -> Finding | None:
        """Judge the device's memory at the end of a block."""
        config, total, maxima = self.config, self._total, self._maxima[1]
        if not total:
            return self._by_doubling(step, 1, scales, "device")
        now = maxima.maxima(0, 1)[-1]
        trend = self._foreseen(maxima, scales, "device", total)
        leaps = leap(maxima, _RISING_BLOCKS) >= config.leap * total
        critical = now > config.full * total and (trend is not None or leaps)
        allocated = f"{now / _GB:.3g} of {total / _GB:.3g} GB are allocated"
        if trend is None and not critical:
            if self.open_kind == "device":
                return self._slower(step, maxima, allocated)
            return self._in_pieces(step, now, total)
        words = f"{allocated}, and more with every step"
        evidence = {"allocated": now, "total": total}
        if trend is not None and trend.per_step > 0.0 and now < total:
            left = (total - now) / trend.per_step
            words = f"{allocated}, and in some {left:.2g} steps the device is full"
            evidence |= {"per_step": trend.per_step, "full_at_step": round(step + left)}
        return self.hit(
            step,
            Severity.CRITICAL if critical else Severity.WARNING,
            now / (config.full * total),
            words,
            kind="device",
            onset=trend.onset if trend is not None else maxima.steps(0, _RISING_BLOCKS)[0],
            metric="memory_allocated",
            evidence=evidence,
        )

    def _by_doubling(self, step: int, i: int, scales: int, kind: str) -> Finding | None:
        """Judge memory whose end is not known at the end of a block."""
        maxima = self._maxima[i]
        now, lowest = maxima.maxima(0, 1)[-1], maxima.lowest()
        limit = self.config.doubled * lowest
        trend = self._foreseen(maxima, scales, kind, limit)
        metric = self.inputs[i]
        whose = "the process" if i == 0 else "the device"
        words = f"the memory of {whose} is {now / _GB:.3g} GB"
        if trend is None:
            return self._slower(step, maxima, words) if self.open_kind == kind else None
        return self.hit(
            step,
            Severity.WARNING if now >= limit else Severity.INFO,
            now / limit,
            f"{words} where it was {lowest / _GB:.3g} GB, and grows steadily",
            kind=kind,
            onset=trend.onset,
            metric=metric,
            evidence={"now": now, "lowest": lowest, "per_step": trend.per_step},
        )

    def _foreseen(
        self, maxima: BlockMaxima, scales: int, kind: str, limit: float
    ) -> MemoryTrend | None:
        """The first trend that leads higher than before and to ``limit`` within the horizon.

        Those of the scales with a new block; of all scales where the episode is open.
        """
        if self.open_kind == kind:
            scales = maxima.num_scales
        now = maxima.maxima(0, 1)[-1]
        is_near = kind == "device" and now > self.config.full * self._total > 0.0
        for trend in trends(maxima, scales, self.config.least):
            counts = trend.is_new or is_near or self.open_kind == kind
            if counts and now + trend.growth.ahead(self.config.horizon) >= limit:
                return trend
        return None

    def _slower(self, step: int, maxima: BlockMaxima, words: str) -> Finding | None:
        """Whether an open episode is over: no longer higher than five blocks before."""
        assert self._episode is not None
        last = maxima.maxima(0, _BACK_BLOCKS + 1)
        if last[-1] > last[0]:
            self._episode.hit(step, self._episode.score)
            return None
        return self.calm(step, _CALM_BLOCKS, words)

    def _in_pieces(self, step: int, allocated: float, total: float) -> Finding | None:
        """Judge what the device's allocator holds and cannot use."""
        c, pieces = self.config, self._pieces
        lasting = pieces.judge(
            allocated, over=c.pieces, least=c.pieces_full * total, growth=c.pieces_growth
        )
        reserved = pieces.reserved
        if not lasting and self.open_kind == "pieces":
            return self.calm(step, _CALM_BLOCKS, f"{reserved / _GB:.3g} GB are reserved")
        if lasting < c.pieces_blocks:
            return None
        return self.hit(
            step,
            Severity.INFO,
            reserved / (c.pieces_full * total),
            f"{reserved / _GB:.3g} of {total / _GB:.3g} GB are reserved on the device for the "
            f"{allocated / _GB:.3g} GB in use: the rest lies in pieces",
            kind="pieces",
            metric="memory_reserved",
            evidence={"reserved": reserved, "allocated": allocated, "total": total},
        )
