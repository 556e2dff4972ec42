"""What every detector in the catalogue promises, whatever it looks for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import pytest

from lossguard.detectors import CATALOGUE, Detector, Finding, Observation, Severity, Symptom

ALL = pytest.mark.parametrize("kind", list(CATALOGUE.values()), ids=list(CATALOGUE))

WARNINGS_PER_10K = 20
"""Budget of warning episodes on Student-t noise, far heavier in the tails than most losses."""


def healthy(num_steps: int, seed: int, noise: float = 0.02, dof: float = 4.0) -> list[Observation]:
    """A loss that decays by a power law, then faster as the learning rate does, in heavy tails."""
    random = np.random.default_rng(seed)
    t = np.arange(num_steps)
    trend = 2.5 + 8.0 * (1.0 + t / 5.0) ** -0.5
    trend *= np.where(t > 0.7 * num_steps, 1.0 - 0.15 * (t / num_steps - 0.7), 1.0)
    loss = trend * np.exp(noise * random.standard_t(dof, num_steps))
    grad_norm = (0.3 + 3.0 / (1.0 + t / 50.0)) * np.exp(
        0.2 * random.standard_t(2.0 * dof, num_steps)
    )
    wander = np.cumsum(random.normal(0.0, 2e-4, num_steps))
    lr = 1e-3 * np.minimum((t + 1) / 100.0, 1.0) * (0.55 + 0.45 * np.cos(np.pi * t / num_steps))
    return [
        Observation(
            step,
            {
                "loss": float(loss[step] * math.exp(wander[step])),
                "grad_norm": float(grad_norm[step]),
                "lr": float(lr[step]),
                "skipped": 0.0,
            },
        )
        for step in range(num_steps)
    ]


def with_values(observation: Observation, **values: float) -> Observation:
    """The observation with some values replaced."""
    return Observation(observation.step, {**observation.values, **values})


def findings(detector: Detector, observations: Sequence[Observation]) -> list[Finding]:
    """All that the detector says about the observations."""
    said = (detector.update(observation) for observation in observations)
    return [finding for finding in said if finding is not None]


def openings(said: Sequence[Finding]) -> Iterator[int]:
    """Steps at which an episode was opened."""
    seen: set[int] = set()
    for finding in said:
        if finding.end_step is None and finding.onset_step not in seen:
            seen.add(finding.onset_step)
            yield finding.detected_step


def trouble(symptom: Symptom, observation: Observation, size: float = 5.0) -> Observation:
    """The observation with the thing in it that the detector is there to find."""
    match symptom:
        case Symptom.NONFINITE:
            return with_values(observation, loss=math.nan)
        case Symptom.GRAD_SPIKE:
            return with_values(observation, grad_norm=40.0 * size * observation.values["grad_norm"])
        case _:
            return with_values(observation, loss=size * observation.values["loss"])


@ALL
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("dof", [3.0, 30.0])
def test_a_long_healthy_run_raises_nothing_critical(
    kind: type[Detector], seed: int, dof: float
) -> None:
    """20,000 healthy steps bring no critical finding, and warnings within the budget."""
    said = findings(kind(), healthy(20_000, seed, dof=dof))
    assert [finding for finding in said if finding.severity is Severity.CRITICAL] == []
    assert len(list(openings(said))) <= 2 * WARNINGS_PER_10K


@ALL
@pytest.mark.parametrize("seed", [1, 2])
def test_a_healthy_run_is_never_vetoed(kind: type[Detector], seed: int) -> None:
    """No healthy value of a run with normal noise exceeds the bounds given for its step."""
    detector = kind()
    for observation in healthy(10_000, seed, dof=30.0):
        for metric, bound in detector.bounds().items():
            assert observation.values[metric] <= bound
        detector.update(observation)


@ALL
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e38, 1e300])
def test_one_absurd_value_does_not_blind(kind: type[Detector], bad: float) -> None:
    """After a NaN, an Inf or a giant, a real event is found as if nothing had been."""
    run = healthy(1_000, 5)
    run[400] = with_values(run[400], loss=bad, grad_norm=bad)
    for step in range(600, 640):
        run[step] = trouble(kind.symptom, run[step])
    said = findings(kind(), run)
    assert any(600 <= step <= 606 for step in openings(said))


@ALL
def test_recurring_trouble_keeps_being_found(kind: type[Detector]) -> None:
    """Of twenty troubles, one every 60 steps, all are found: they teach it nothing."""
    run = healthy(2_000, 6)
    starts = range(500, 1_700, 60)
    length = 12 if kind.symptom is Symptom.DIVERGENCE else 1
    for start in starts:
        for step in range(start, start + length):
            run[step] = trouble(kind.symptom, run[step])
    onsets = [finding.onset_step for finding in findings(kind(), run)]
    assert all(any(start - 3 <= onset <= start for onset in onsets) for start in starts)


@ALL
@pytest.mark.parametrize("cut", [3, 70, 505, 603, 900])
def test_state_survives_a_restart(kind: type[Detector], cut: int) -> None:
    """A detector restored from MessagePack goes on, and rewinds, exactly like the original."""
    run = healthy(1_200, 7)
    for step in [500, *range(600, 700)]:
        run[step] = trouble(kind.symptom, run[step])
    original, restored = kind(), kind()
    findings(original, run[:cut])
    restored.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(original.state())))
    assert restored.state() == original.state()
    half = (cut + len(run)) // 2
    assert findings(original, run[cut:half]) == findings(restored, run[cut:half])
    original.rewind(half - 40)
    restored.rewind(half - 40)
    assert findings(original, run[half:]) == findings(restored, run[half:])
    assert original.bounds() == restored.bounds()


@ALL
def test_memory_does_not_grow_with_the_run(kind: type[Detector]) -> None:
    """The state after 50,000 steps is no larger than after 3,000, but for longer numbers."""
    detector = kind()
    run = healthy(50_000, 8)
    findings(detector, run[:3_000])
    early = len(msgspec.msgpack.encode(detector.state()))
    findings(detector, run[3_000:])
    assert len(msgspec.msgpack.encode(detector.state())) < 1.25 * early + 64


@ALL
def test_the_same_observations_give_the_same_findings(kind: type[Detector]) -> None:
    """Two detectors that see the same run say the same."""
    run = healthy(1_500, 9, noise=0.05, dof=2.0)
    for step in range(800, 900):
        run[step] = trouble(kind.symptom, run[step])
    assert findings(kind(), run) == findings(kind(), run)


@ALL
@pytest.mark.parametrize("back", [1, 7, 130, 300])
def test_rewinding_makes_steps_unseen(kind: type[Detector], back: int) -> None:
    """After a rewind it goes on as if the forgotten steps, trouble included, never came."""
    run = healthy(2_000, 10)
    start = 900
    for step in range(start, start + back):
        run[step] = trouble(kind.symptom, run[step])
    later = run[start + back :]
    for step in range(300, 420):
        later[step] = trouble(kind.symptom, later[step])
    rewound, innocent = kind(), kind()
    findings(rewound, run[: start + back])
    rewound.rewind(start - 1)
    findings(innocent, run[:start])
    assert rewound.bounds() == innocent.bounds()
    assert findings(rewound, later) == findings(innocent, later)
    assert rewound.bounds() == innocent.bounds()


@ALL
def test_rewinding_far_back_lands_on_something_older(kind: type[Detector]) -> None:
    """A rewind beyond the journal forgets at least what it was told to, and still works."""
    run = healthy(8_000, 11)
    for step in range(2_500, 6_000):
        run[step] = with_values(run[step], loss=40.0)
    detector = kind()
    findings(detector, run[:6_000])
    detector.rewind(2_499)
    assert findings(detector, run[6_000:6_500]) == []
    bad = [trouble(kind.symptom, observation) for observation in run[6_500:6_540]]
    assert findings(detector, bad)


@ALL
def test_rewinding_an_open_episode_drops_it_silently(kind: type[Detector]) -> None:
    """No end is reported for an episode that a rollback undid, and trouble opens a new one."""
    run = healthy(1_000, 12)
    bad = [trouble(kind.symptom, observation) for observation in run[500:520]]
    detector = kind()
    findings(detector, run[:500])
    assert findings(detector, bad)
    detector.rewind(499)
    assert findings(detector, run[520:600]) == []
    again = [trouble(kind.symptom, observation) for observation in run[600:620]]
    assert next(openings(findings(detector, again))) >= 600


@ALL
def test_missing_metrics_are_silence(kind: type[Detector]) -> None:
    """A run that measures nothing the detector needs raises nothing and bounds nothing."""
    detector = kind()
    assert findings(detector, [Observation(step, {"other": 1.0}) for step in range(500)]) == []
    assert detector.bounds() == {}


@ALL
def test_fresh_detectors_share_nothing(kind: type[Detector]) -> None:
    """What one instance has seen, another has not."""
    used = kind()
    findings(used, healthy(300, 13))
    assert kind().state() == kind().state()
    assert kind.symptom.value in CATALOGUE
    assert kind.inputs


@ALL
def test_episodes_are_well_formed(kind: type[Detector]) -> None:
    """Findings of one episode share their onset, never de-escalate, and the end comes last."""
    run = healthy(3_000, 14)
    for start, length in [(400, 1), (700, 3), (1_000, 12), (1_500, 150)]:
        for step in range(start, start + length):
            run[step] = trouble(kind.symptom, run[step])
    current: Finding | None = None
    for finding in findings(kind(), run):
        assert finding.onset_step <= finding.detected_step
        assert finding.symptom is kind.symptom
        if current is not None:
            assert finding.onset_step == current.onset_step
            assert finding.severity.rank >= current.severity.rank
        if finding.end_step is not None:
            assert finding.onset_step <= finding.end_step <= finding.detected_step
            current = None
        else:
            current = finding
    assert current is None
