"""The history of layers in bounded memory."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lossguard.detectors.layer_blocks import LATEST, LayerBlocks

NONE_MISSING = np.zeros(3, np.bool_)


def fed(blocks: LayerBlocks, start: int, stop: int, every: int = 1) -> LayerBlocks:
    """With observations whose layers are 1, 2 and 3 times the step, plus one."""
    for step in range(start, stop):
        blocks.tick()
        if step % every == 0:
            values = (step + 1.0) * np.array([1.0, 2.0, 3.0], np.float32)
            blocks.push(step, values.astype(np.float32), NONE_MISSING)
    return blocks


def test_a_block_holds_the_median_of_each_layer() -> None:
    """Eight observations at first."""
    blocks = fed(LayerBlocks(), 0, 8)
    assert [(b.first_step, b.last_step) for b in blocks.known()] == [(0, 7)]
    assert np.exp(blocks.known()[0].heights) == pytest.approx([4.0, 8.0, 12.0])


def test_blocks_grow_to_64_observations() -> None:
    """And follow each other without a gap."""
    blocks = fed(LayerBlocks(), 0, 3_000).blocks[-4:]
    assert [b.last_step - b.first_step for b in blocks] == [56] * 4
    assert all(0 < b.first_step - a.last_step <= 8 for a, b in itertools.pairwise(blocks))


def test_samples_at_every_16th_step_make_blocks_as_well() -> None:
    """Of three samples or more."""
    blocks = fed(LayerBlocks(), 0, 3_000, every=16).known()
    assert len(blocks) >= 10
    assert all(b.last_step - b.first_step >= 32 for b in blocks)


@pytest.mark.parametrize("num_steps", [5_000, 60_000])
def test_the_whole_run_is_known_from_a_few_blocks(num_steps: int) -> None:
    """The latest eight without a gap, 8 to 16 spread evenly over the rest."""
    blocks = fed(LayerBlocks(), 0, num_steps)
    assert len(blocks.blocks) <= 40
    known = blocks.known()
    assert [b.index for b in known[-LATEST:]] == list(range(blocks.count - LATEST, blocks.count))
    gaps = np.diff([b.index for b in known[:-LATEST]])
    assert known[0].index == 0
    assert len(set(gaps.tolist())) == 1
    assert len(gaps) >= 6


@pytest.mark.parametrize("back", [1, 100, 450])
def test_a_rewind_leaves_what_was_known_then(back: int) -> None:
    """But for the block that was not complete."""
    then = fed(LayerBlocks(), 0, 9_000 - back)
    later = fed(LayerBlocks(), 0, 9_000)
    then.rewind(9_000 - back - 1)
    later.rewind(9_000 - back - 1)
    assert [b.index for b in later.known()] == [b.index for b in then.known()]
    assert later.ticks == then.ticks
    fed(then, 9_000 - back, 9_500)
    fed(later, 9_000 - back, 9_500)
    assert [b.last_step for b in later.known()] == [b.last_step for b in then.known()]


def test_what_is_not_usable_leaves_no_trace() -> None:
    """A layer has a height where at least half of its values are finite, positive and measured."""
    blocks = LayerBlocks()
    for step in range(8):
        blocks.tick()
        odd = step % 2 == 1
        values = np.array([np.nan if odd else 1.0, 0.0, 2.0], np.float32)
        blocks.push(step, values, np.array([False, False, step < 5]))
    heights = blocks.known()[0].heights
    assert np.isnan(heights).tolist() == [False, True, True]
    assert heights[0] == 0.0


def test_its_state_is_all_there_is() -> None:
    """In the middle of a block."""
    blocks = fed(LayerBlocks(), 0, 5_021)
    restored = LayerBlocks()
    restored.restore(blocks.state())
    assert restored.state() == blocks.state()
    fed(blocks, 5_021, 5_400)
    fed(restored, 5_021, 5_400)
    assert restored.state() == blocks.state()


def test_another_model_begins_anew() -> None:
    """Layers are compared by their place."""
    blocks = fed(LayerBlocks(), 0, 1_000)
    blocks.push(1_001, np.ones(5, np.float32), np.zeros(5, np.bool_))
    assert blocks.known() == []
