"""Replicas of a model that are no longer the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lossguard.detectors.base import Finding, Observation, Severity, Symptom
from lossguard.detectors.located import LocatedDetector
from lossguard.detectors.measured import measured
from lossguard.detectors.rewinding import Inputs
from lossguard.detectors.thresholds import require_at_least

_UNKNOWN = -1
_MOST_NAMED = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class RankDesyncConfig:
    """Thresholds. Sources in the docstring of ``RankDesync``."""

    agreed: int = 2
    """Samples in a row in which the same ranks were equal, before they have to be [>= 2]."""
    calm_samples: int = 2
    """Samples in a row in which they are equal again, after which it is over [>= 1]."""

    def __post_init__(self) -> None:
        require_at_least(self, agreed=2, calm_samples=1)


class RankDesync(LocatedDetector):
    """Name the rank whose weights differ from those it was equal to.

    ``rank_checksum`` is a number of all bits of the weights that a rank has whole. Ranks that had
    the same one in two samples in a row are replicas of each other, and have to stay equal bit for
    bit: nothing is compared with a threshold. From then on the ranks that differ from most of their
    replicas are named, of two both, at once and as critical. Ranks that were never equal (pipeline
    stages, layers cut by hand, a training that averages its weights now and then) are not compared.

    Dated to the last sample in which they were equal, whose own update may have done it.

    Source: replicas of synchronous data parallelism get equal gradients and so stay equal; that
    silent data corruption breaks that is reported for training at scale (Llama 3, 2024, section
    3.3.4; Dixit et al., "Silent Data Corruptions at Scale", 2021).
    """

    symptom: ClassVar[Symptom] = Symptom.RANK_DESYNC
    inputs: ClassVar[tuple[str, ...]] = ("rank_checksum",)

    def __init__(self, config: RankDesyncConfig | None = None) -> None:
        super().__init__()
        self.config = config or RankDesyncConfig()
        self._labels: list[int] = []
        self._peers: list[int] = []
        self._agreed = 0
        self._last_equal = 0

    def inputs_of(self, observation: Observation) -> Inputs | None:
        """How many steps ago it was; then, unless all is as at the last sample, for each rank the
        first rank with the same checksum."""
        family = measured(observation, "rank_checksum")
        if family is None or len(family.names) < 2:
            return None
        first: dict[float, int] = {}
        labels = [
            _UNKNOWN if gone else first.setdefault(value, rank)
            for rank, (value, gone) in enumerate(
                zip(family.values.tolist(), family.missing.tolist(), strict=True)
            )
        ]
        lag = max(observation.get("rank_lag") or 0.0, 0.0)
        return (lag,) if labels == self._labels else (lag, *map(float, labels))

    def judge(self, step: int, inputs: Inputs) -> Finding | None:
        """Take in one sample."""
        lag, *changed = inputs
        if changed:
            self._labels = [int(label) if label is not None else _UNKNOWN for label in changed]
        measured_at = step - int(lag or 0)
        if len(self._peers) != len(self._labels):
            self._learn(bool(changed), measured_at)
            return None
        odd, replicas = _odd_ones(self._labels, self._peers)
        if not odd:
            self._last_equal = measured_at
            return self.calm(step, self.config.calm_samples, f"{self._where} is like the others")
        where, words = _named(odd, replicas)
        return self.blame(
            where,
            step,
            Severity.CRITICAL,
            float(len(odd)),
            words,
            onset=self._last_equal,
            evidence={"ranks": float(len(odd))},
        )

    def save(self) -> dict[str, Any]:
        """The state that ``judge`` works on."""
        return super().save() | {
            "labels": list(self._labels),
            "peers": list(self._peers),
            "agreed": self._agreed,
            "last_equal": self._last_equal,
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        """Put back what ``save`` gave."""
        super().load(saved)
        self._labels, self._peers = list(saved["labels"]), list(saved["peers"])
        self._agreed, self._last_equal = saved["agreed"], saved["last_equal"]

    def _learn(self, has_changed: bool, step: int) -> None:
        """Who is a replica of whom."""
        self._peers, self._agreed = [], 1 if has_changed else self._agreed + 1
        counts = Counter(label for label in self._labels if label != _UNKNOWN)
        if self._agreed >= self.config.agreed and max(counts.values(), default=0) > 1:
            self._peers, self._last_equal = list(self._labels), step


def _odd_ones(labels: Sequence[int], peers: Sequence[int]) -> tuple[list[int], int]:
    """The ranks that differ from most of their replicas, and how many of these there are; of a tie
    all of them."""
    if labels == peers:
        return [], 0
    members: dict[int, list[int]] = {}
    for rank, peer in enumerate(peers):
        if peer != _UNKNOWN and labels[rank] != _UNKNOWN:
            members.setdefault(peer, []).append(rank)
    odd: list[int] = []
    replicas = 0
    for ranks in members.values():
        counts = Counter(labels[rank] for rank in ranks).most_common(2)
        most, count = counts[0]
        if count == len(ranks):
            continue
        is_tied = counts[1][1] == count
        odd += ranks if is_tied else [rank for rank in ranks if labels[rank] != most]
        replicas += 0 if is_tied else count
    return odd, replicas


def _named(odd: Sequence[int], replicas: int) -> tuple[str, str]:
    """Where it is, and the words for it."""
    listed = ", ".join(str(rank) for rank in odd[:_MOST_NAMED])
    more = f" and {len(odd) - _MOST_NAMED} more" if len(odd) > _MOST_NAMED else ""
    where = f"rank {listed}" if len(odd) == 1 else f"ranks {listed}{more}"
    if not replicas:
        return where, f"the weights of {where} are no longer equal, and which are right is unknown"
    return where, f"the weights of {where} differ from those of {replicas} other ranks"
