"""What every detector in the catalogue promises, whatever it looks for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import pytest

from lossguard.detectors import (
    BY_THE_CLOCK,
    CATALOGUE,
    Detector,
    Finding,
    Observation,
    Severity,
    Symptom,
)
from tests.contract.troubles import TROUBLES, Trouble, hurt
from tests.support.healthy_run import at_step, healthy, with_values


def seldom(value: object) -> object:
    """Left to ``make soak``: each value costs a run of every detector."""
    return pytest.param(value, marks=pytest.mark.slow)


ALL = pytest.mark.parametrize("kind", list(CATALOGUE.values()), ids=list(CATALOGUE))

WARNINGS_PER_10K = 20
"""Budget of warning episodes on Student-t noise, far heavier in the tails than most losses."""


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


def in_time(trouble: Trouble, start: int, said: Sequence[Finding]) -> bool:
    """Whether an episode was opened within the time the trouble allows."""
    return any(start <= step <= start + trouble.latest for step in openings(said))


def span(trouble: Trouble) -> int:
    """Steps of trouble and the calm that ends it."""
    return trouble.steps + trouble.calm


def test_every_symptom_has_a_detector_and_a_trouble_that_provokes_it() -> None:
    """No symptom is a name only."""
    assert set(CATALOGUE) == {str(symptom) for symptom in set(Symptom) - BY_THE_CLOCK}
    assert set(TROUBLES) == set(Symptom) - BY_THE_CLOCK
    assert all(kind.symptom == name for name, kind in CATALOGUE.items())


@ALL
@pytest.mark.parametrize("seed", [1, seldom(2), seldom(3)])
@pytest.mark.parametrize("dof", [3.0, seldom(30.0)])
def test_a_long_healthy_run_raises_nothing_critical(
    kind: type[Detector], seed: int, dof: float
) -> None:
    """20,000 healthy steps bring no critical finding, and warnings within the budget."""
    said = findings(kind(), healthy(20_000, seed, dof=dof))
    assert [finding for finding in said if finding.severity is Severity.CRITICAL] == []
    assert len(list(openings(said))) <= 2 * WARNINGS_PER_10K


@ALL
@pytest.mark.parametrize("seed", [1, seldom(2)])
def test_a_healthy_run_is_never_vetoed(kind: type[Detector], seed: int) -> None:
    """No healthy value of a run with normal noise exceeds the bounds given for its step."""
    detector = kind()
    for observation in healthy(6_000, seed, dof=30.0):
        for metric, bound in detector.bounds().items():
            assert observation.values[metric] <= bound
        detector.update(observation)


@ALL
def test_its_trouble_is_found_in_time_and_dated(kind: type[Detector]) -> None:
    """The trouble of its symptom is found soon, dated right, and over when it is over."""
    trouble = TROUBLES[kind.symptom]
    start = trouble.warm_up
    run = healthy(start + span(trouble) + 20, 4)
    said = findings(kind(), hurt(run, kind.symptom, start))
    assert in_time(trouble, start, said)
    onset = next(f.onset_step for f in said if f.detected_step >= start)
    assert start - trouble.early <= onset <= start + trouble.late
    assert said[-1].end_step is not None


@ALL
@pytest.mark.parametrize("bad", [math.nan, math.inf, seldom(-math.inf), 1e38, seldom(1e300)])
def test_one_absurd_value_does_not_blind(kind: type[Detector], bad: float) -> None:
    """After a NaN, an Inf or a giant, a real event is found as if nothing had been."""
    trouble = TROUBLES[kind.symptom]
    absurd_at = trouble.warm_up
    start = absurd_at + trouble.calm + 1
    run = hurt(healthy(start + span(trouble), 5), kind.symptom, start)
    values = dict.fromkeys(set(run[absurd_at].values) - {"skipped"}, bad)
    run[absurd_at] = with_values(run[absurd_at], **values)
    assert in_time(trouble, start, findings(kind(), run))


@ALL
def test_recurring_trouble_keeps_being_found(kind: type[Detector]) -> None:
    """Trouble that comes again and again is found each time: it teaches the detector nothing."""
    trouble = TROUBLES[kind.symptom]
    repeats = 20 if trouble.steps < 20 else 3
    starts = [trouble.warm_up + i * span(trouble) for i in range(repeats)]
    run: Sequence[Observation] = healthy(starts[-1] + span(trouble), 6)
    for start in starts:
        run = hurt(run, kind.symptom, start)
    onsets = [finding.onset_step for finding in findings(kind(), run)]
    for start in starts:
        assert any(start - trouble.early <= o <= start + trouble.late for o in onsets), start


@ALL
@pytest.mark.parametrize("cut", [seldom(0.01), 0.3, seldom(0.62), 0.75, seldom(0.9)])
def test_state_survives_a_restart(kind: type[Detector], cut: float) -> None:
    """A detector restored from MessagePack goes on, and rewinds, exactly like the original."""
    trouble = TROUBLES[kind.symptom]
    start = trouble.warm_up
    run = hurt(healthy(start + 2 * span(trouble), 7), kind.symptom, start)
    at = int(cut * len(run))
    original, restored = kind(), kind()
    findings(original, run[:at])
    restored.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(original.state())))
    assert restored.state() == original.state()
    half = (at + len(run)) // 2
    assert findings(original, run[at:half]) == findings(restored, run[at:half])
    original.rewind(half - 40)
    restored.rewind(half - 40)
    assert findings(original, run[half:]) == findings(restored, run[half:])
    assert original.bounds() == restored.bounds()


@ALL
def test_memory_does_not_grow_with_the_run(kind: type[Detector]) -> None:
    """The state after 20,000 steps is no larger than after 10,000, but for longer numbers."""
    detector = kind()
    run = healthy(10_000, 8)
    findings(detector, run)
    early = len(msgspec.msgpack.encode(detector.state()))
    findings(detector, [at_step(o, o.step + len(run)) for o in run])
    assert len(msgspec.msgpack.encode(detector.state())) < 1.25 * early + 64


@ALL
def test_the_same_observations_give_the_same_findings(kind: type[Detector]) -> None:
    """Two detectors that see the same run say the same."""
    start = TROUBLES[kind.symptom].warm_up
    run = healthy(start + 2 * span(TROUBLES[kind.symptom]), 9, noise=0.05, dof=2.0)
    run_with_trouble = hurt(run, kind.symptom, start)
    assert findings(kind(), run_with_trouble) == findings(kind(), run_with_trouble)


@ALL
@pytest.mark.parametrize("back", [seldom(1), 7, 130, seldom(300)])
def test_rewinding_makes_steps_unseen(kind: type[Detector], back: int) -> None:
    """After a rewind it goes on as if the forgotten steps, trouble included, never came."""
    trouble = TROUBLES[kind.symptom]
    start = trouble.warm_up
    again = start + back + 300
    run: Sequence[Observation] = healthy(again + 2 * span(trouble), 10)
    run = hurt(hurt(run, kind.symptom, start, back), kind.symptom, again)
    later = run[start + back :]
    rewound, innocent = kind(), kind()
    findings(rewound, run[: start + back])
    rewound.rewind(start - 1)
    findings(innocent, run[:start])
    innocent.rewind(start - 1)
    assert rewound.bounds() == innocent.bounds()
    assert findings(rewound, later) == findings(innocent, later)
    assert rewound.bounds() == innocent.bounds()


@ALL
def test_rewinding_far_back_lands_on_something_older(kind: type[Detector]) -> None:
    """A rewind beyond the journal forgets at least what it was told to, and still works."""
    trouble = TROUBLES[kind.symptom]
    start, stop = trouble.warm_up + 500, trouble.warm_up + 4_000
    again = stop + trouble.warm_up
    run: Sequence[Observation] = healthy(again + span(trouble), 11)
    run = hurt(hurt(run, kind.symptom, start, stop - start), kind.symptom, again)
    detector = kind()
    findings(detector, run[:stop])
    detector.rewind(start - 1)
    assert [f for f in findings(detector, run[stop:again]) if f.onset_step < stop] == []
    assert in_time(trouble, again, findings(detector, run[again:]))


@ALL
def test_rewinding_an_open_episode_drops_it_silently(kind: type[Detector]) -> None:
    """No end is reported for an episode that a rollback undid, and trouble opens a new one."""
    trouble = TROUBLES[kind.symptom]
    start = trouble.warm_up
    stop = start + trouble.steps
    again = stop + trouble.calm
    run: Sequence[Observation] = healthy(again + span(trouble), 12)
    run = hurt(hurt(run, kind.symptom, start), kind.symptom, again)
    detector = kind()
    findings(detector, run[:start])
    assert findings(detector, run[start:stop])
    detector.rewind(start - 1)
    assert findings(detector, run[stop:again]) == []
    assert in_time(trouble, again, findings(detector, run[again:]))


@ALL
def test_missing_metrics_are_silence(kind: type[Detector]) -> None:
    """A run that measures nothing the detector needs raises nothing and bounds nothing."""
    detector = kind()
    assert findings(detector, [Observation(step, {"other": 1.0}) for step in range(500)]) == []
    assert detector.bounds() == {}


@ALL
def test_values_missing_here_and_there_change_little(kind: type[Detector]) -> None:
    """With a tenth of all values lost it stays silent on a healthy run and finds its trouble."""
    trouble = TROUBLES[kind.symptom]
    random = np.random.default_rng(15)
    start = 2 * trouble.warm_up
    run = hurt(healthy(start + 2 * span(trouble), 15), kind.symptom, start, 2 * trouble.steps + 4)
    holed = []
    for o in run:
        kept = {name: value for name, value in o.values.items() if random.random() > 0.1}
        families = o.families if random.random() > 0.1 else {}
        holed.append(Observation(o.step, kept, o.time_s, o.applied, families))
    said = findings(kind(), holed)
    assert [f for f in said if f.detected_step < start and f.severity is Severity.CRITICAL] == []
    assert any(start <= step <= start + 2 * trouble.latest + 20 for step in openings(said))


@ALL
def test_only_the_order_of_steps_matters(kind: type[Detector]) -> None:
    """Steps that begin at a million, or that are logged every tenth, give the same findings."""
    trouble = TROUBLES[kind.symptom]
    run = hurt(healthy(trouble.warm_up + span(trouble), 16), kind.symptom, trouble.warm_up)
    said = findings(kind(), run)
    for first, stride in [(1_000_000, 1), (0, 10)]:
        moved = findings(kind(), [at_step(o, first + stride * o.step) for o in run])
        assert [(f.detected_step, f.onset_step, f.severity) for f in moved] == [
            (first + stride * f.detected_step, first + stride * f.onset_step, f.severity)
            for f in said
        ]


@ALL
def test_a_resume_at_a_lower_step_is_normal_life(kind: type[Detector]) -> None:
    """A log whose steps go back (a run resumed from a checkpoint) raises nothing by that."""
    run = healthy(3_000, 17)
    detector = kind()
    before = findings(detector, run[:2_000])
    after = findings(detector, run[1_800:])
    assert [f for f in before + after if f.severity is Severity.CRITICAL] == []
    assert len(list(openings(after))) <= 2


@ALL
def test_fresh_detectors_share_nothing(kind: type[Detector]) -> None:
    """What one instance has seen, another has not."""
    used = kind()
    findings(used, healthy(300, 13))
    assert kind().state() == kind().state()
    assert kind.inputs


@ALL
def test_episodes_are_well_formed(kind: type[Detector]) -> None:
    """Findings of one episode share their onset, never de-escalate, and the end comes last."""
    trouble = TROUBLES[kind.symptom]
    start = trouble.warm_up
    run: Sequence[Observation] = healthy(start + 5 * span(trouble) + 1_000, 14)
    at = start
    for length in (1, 3, trouble.steps, 2 * trouble.steps):
        run = hurt(run, kind.symptom, at, length)
        at += length + trouble.calm
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
