"""Pictures hold what a viewer asked for, and no more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lossguard.agent import feed
from lossguard.probes import wire
from tests.unit.agent.test_attention import Desk

SPIKE = 4_321
NAMES = ("loss", "lr", "grad_norm/a.weight", "grad_norm/b.weight")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A run of 6,000 steps, with one spike of one step in one layer."""
    made = Desk(tmp_path / "lossguard.db")
    made.join(*NAMES)
    rows = np.full((6_000, len(NAMES)), 0.5) + 0.01 * np.random.default_rng(0).random((6_000, 4))
    rows[SPIKE - 1, 3] = 0.9
    made.steps(1, rows)
    yield made
    made.store.close()


def steps_of(series: feed.Series) -> list[int]:
    """Where its buckets begin."""
    return np.frombuffer(series.steps, "<i8").tolist()  # type: ignore[no-any-return]


def test_a_picture_holds_what_was_asked_for_and_is_small(desk: Desk) -> None:
    """Metrics, strips, sparklines and ranks travel only to whom they interest."""
    bare = desk.picture(metrics=(), events=1)
    assert not (bare.series)
    assert not (bare.strips)
    assert not (bare.ranks)
    assert not (bare.runs[0].spark)
    assert bare.families == ["grad_norm"]
    assert len(feed.encode(bare)) < 2_000
    full = desk.picture(metrics=("lr", "nothing"), strips=("grad_norm",), ranks=True, sparks=True)
    assert [one.metric for one in full.series] == ["lr"]
    assert full.strips[0].names == ["a.weight", "b.weight"]
    assert len(full.runs[0].spark) == feed.SPARK_CELLS * 8
    assert [one.rank for one in full.ranks] == [0]


def test_a_spike_of_one_step_is_in_the_strip_of_its_layer(desk: Desk) -> None:
    """Columns that were merged keep the largest value."""
    (strip,) = desk.picture(strips=("grad_norm",)).strips
    values = np.frombuffer(strip.values, "<f4").reshape(-1, 2)
    assert values[:, 1].max() == np.float32(0.9)
    assert values[:, 0].max() < 0.6


def test_a_close_up_has_every_step_and_the_rest_of_the_run_in_buckets(desk: Desk) -> None:
    """Where histories have merged steps; what is too wide comes in buckets as ever."""
    coarse = steps_of(desk.picture(metrics=("loss",)).series[0])
    assert coarse[1] - coarse[0] > 1
    (closer,) = desk.picture(metrics=("loss",), window=(4_000, 5_000)).series
    steps = steps_of(closer)
    assert steps[:1000] == list(range(4_000, 5_000))
    assert steps[-1] == coarse[-1]
    assert steps == sorted(set(steps))
    wide = desk.picture(metrics=("loss",), window=(0, feed.CLOSEST_STEPS + 1)).series[0]
    assert steps_of(wide) == coarse
    for odd in ((-5, 10), (10, 5), (7, 7)):
        assert steps_of(desk.picture(metrics=("loss",), window=odd).series[0]) == coarse


def test_two_runs_travel_in_one_picture_for_who_compares_them(desk: Desk) -> None:
    """The same metrics of the other one."""
    desk.join("loss", run="run-b", name="other")
    beside = desk.picture(metrics=("loss",), beside="run-b").beside
    assert beside is not None
    assert beside.name == "other"
    assert desk.picture(beside="nobody").beside is None


def test_the_snapshots_of_a_run_are_told_with_their_health(desk: Desk) -> None:
    """By the heartbeat; newest first, and good only where enough healthy steps have followed."""
    held = [wire.Held(5_000, 60.0, 100), wire.Held(5_990, 99.0, 100), wire.Held(9, 1.0, 7, True)]
    beat = wire.Heartbeat(
        run="run-a", rank=0, step=6_000, applied=6_000, dropped=0, time_s=100.0, snapshots=held
    )
    assert desk.picture().snapshots == []
    desk.registry.take(b"probe", [wire.encode(beat)])
    told = [
        (one.step, one.age_s, one.bytes, one.place, one.health) for one in desk.picture().snapshots
    ]
    assert told == [
        (5_990, 1.0, 100, "memory", "unproven"),
        (5_000, 40.0, 100, "memory", "good"),
        (9, 99.0, 7, "disk", "good"),
    ]
    desk.steps(6_001, np.full((1, 4), np.nan))
    beat = wire.Heartbeat(
        run="run-a", rank=0, step=6_001, applied=6_000, dropped=0, time_s=101.0,
        snapshots=[*held, wire.Held(6_000, 100.0, 100)],
    )  # fmt: skip
    desk.registry.take(b"probe", [wire.encode(beat)])
    assert desk.picture().snapshots[0].health == "doubtful"


def test_the_story_of_an_incident_has_advice_and_what_was_kept(desk: Desk) -> None:
    """Causes and fixes are those of ``lossguard explain``; texts are bounded."""
    desk.steps(6_001, np.full((1, 4), np.nan))
    line = desk.picture().incidents[-1]
    folder = desk.registry.runs["run-a"].folder_of(line.id)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stacks.txt").write_text("x" * 100_000)
    story = desk.ask(feed.TellIncident(run="run-a", incident=line.id))
    assert isinstance(story, feed.IncidentStory)
    assert story.title
    assert story.causes
    assert story.fixes
    assert len(story.texts["stacks.txt"]) == 32_000
    assert isinstance(desk.ask(feed.TellIncident(run="run-a", incident="no")), feed.Trouble)
