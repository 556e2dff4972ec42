"""What the model is fed, against a count by hand."""

from __future__ import annotations

import math
from collections import Counter, UserDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn

from lossguard.probes import wire
from lossguard.probes.inputs import InputStatistics, first_input
from tests.unit.probes.loops import Records, Tiny, Watch, loop_of, loss_of, tokens

pytestmark = pytest.mark.usefixtures("no_link")

NAMES = ("input_top_share", "input_distinct_share", "input_absmax", "input_length")


def looked_at(*forwards: Tensor) -> tuple[float | None, ...]:
    """Four of the numbers of a step with these forwards."""
    statistics = InputStatistics()
    for tensor in forwards:
        statistics.look((tensor,), {})
    found = statistics.take()
    four = (found.top_share, found.distinct_share, found.absmax, found.length)
    return tuple(None if x is None else float(x) for x in four)


def by_hand(values: list[int]) -> tuple[float, float]:
    """Share of the most frequent, share of the distinct."""
    times = Counter(values)
    return max(times.values()) / len(values), len(times) / len(values)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8])
@pytest.mark.parametrize("classes", [1, 2, 7, 100])
def test_small_integer_inputs_are_counted_exactly(dtype: torch.dtype, classes: int) -> None:
    """Every value is looked at where there are at most 128."""
    batch = torch.randint(classes, (8, 16)).to(dtype)
    top, distinct = by_hand(batch.flatten().tolist())
    found = looked_at(batch)
    assert found[:2] == pytest.approx((top, distinct))
    assert found[2:] == (None, 16.0)


@pytest.mark.parametrize("cut", [False, True])
def test_large_ones_are_sampled_over_the_whole_batch(cut: bool) -> None:
    """Half of the batch is one token: about half of the sample is; a slice of a batch too."""
    batch = torch.randint(1000, (64, 513))
    batch[:, ::2] = 7
    top, distinct, _, length = looked_at(batch[:, :-1] if cut else batch)
    assert top == pytest.approx(0.5, abs=0.15)
    assert distinct == pytest.approx(0.5, abs=0.15)
    assert length == (512 if cut else 513)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_largest_absolute_value_of_a_floating_point_input(dtype: torch.dtype) -> None:
    """Over all of it, and how many elements a sample has."""
    images = torch.rand(4, 3, 5, 5).to(dtype)
    images[2, 1, 0, 4] = -9.0
    assert looked_at(images) == (None, None, 9.0, 75.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_nonfinite_input_is_measured(bad: float) -> None:
    """Among micro-batches too, first or last."""
    good, hurt = torch.ones(2, 3), torch.tensor([[1.0, bad, 1.0]])
    for forwards in ((good, hurt), (hurt, good)):
        absmax = looked_at(*forwards)[2]
        assert absmax is not None
        assert not math.isfinite(absmax)


def test_the_largest_of_the_micro_batches_stand() -> None:
    """Also where they differ in size."""
    one, other = torch.tensor([[1, 1, 2, 3]]), torch.tensor([[1, 2, 3, 4, 5, 5, 5, 5]])
    (top, distinct), (top2, distinct2) = by_hand(one[0].tolist()), by_hand(other[0].tolist())
    found = looked_at(one, other)
    assert found[:2] == pytest.approx((max(top, top2), max(distinct, distinct2)))
    assert found[3] == 8.0


IDS, MASK, LABELS = torch.arange(6).reshape(2, 3), torch.ones(2, 3).long(), torch.zeros(2).long()


class Encoding(UserDict):  # type: ignore[type-arg]
    """As tokenizers return them."""


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((IDS, MASK), {}),
        ((), {"attention_mask": MASK, "input_ids": IDS}),
        ((), {"labels": LABELS, "attention_mask": MASK, "tokens": IDS}),
        (({"labels": LABELS, "x": IDS},), {}),
        ((Encoding(attention_mask=MASK, input_ids=IDS),), {}),
        (([None, "text", IDS], MASK), {}),
        ((None, 3, {"inner": [IDS]}), {}),
        ((torch.ones(2, 3).bool(), IDS), {}),
    ],
)
def test_the_first_input_is_found(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """In dicts, lists and keywords; ``input_ids`` first; never the mask or the labels."""
    assert first_input(args, kwargs) is IDS


def test_nothing_to_look_at_is_nothing() -> None:
    """No tensor, an empty one, one without values."""
    for args in ((), ("text",), (torch.ones(0),), (torch.ones(2, device="meta"),)):
        assert first_input(args, {}) is None
        statistics = InputStatistics()
        statistics.look(args, {})
        assert all(x is None for x in statistics.take())


def test_a_step_carries_what_its_forwards_were_fed(watch: Watch) -> None:
    """Evaluation does not count, and what one step had the next has not."""
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    records = Records(watch(model, optimizer))
    loss_of(model, 3).backward()
    with torch.no_grad():
        model(torch.zeros(4, 50, dtype=torch.long))
    optimizer.step()
    optimizer.step()
    top, distinct = by_hand(tokens(3).flatten().tolist())
    first = records.steps[0]
    assert [first.get(name) for name in NAMES] == pytest.approx([top, distinct, None, 6.0])
    assert not set(NAMES) & set(records.steps[1])


def test_a_floating_point_model_has_its_own_two(watch: Watch) -> None:
    """And not those of integers."""
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    records = Records(watch(model, optimizer))
    model(torch.tensor([[1.0, -4.0, 2.0]])).sum().backward()
    optimizer.step()
    assert [records.steps[0].get(name) for name in NAMES] == [None, None, 4.0, 3.0]


def test_data_parallel_wrappers_are_entered(watch: Watch, tmp_path: Any) -> None:
    """A forward of the wrapped model counts, through the wrapper or past it."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        model = nn.parallel.DistributedDataParallel(nn.Linear(3, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        records = Records(watch(model, optimizer))
        for forward in (model, model.module):
            forward(torch.full((2, 3), 5.0)).sum().backward()
            optimizer.step()
    finally:
        distributed.destroy_process_group()
    assert records.of("input_absmax") == [5.0, 5.0]


def fed(tensor: Tensor, *, mean: bool = True) -> Any:
    """What is known of one forward."""
    statistics = InputStatistics()
    statistics.measure_mean = mean
    statistics.look((tensor,), {})
    return statistics.take()


@pytest.mark.parametrize("size", [30, 10_000])
def test_the_mean_of_a_floating_point_input(size: int) -> None:
    """Where it is asked for; of integers there is none."""
    values = torch.linspace(-1.0, 4.0, size).reshape(2, -1)
    assert float(fed(values).mean) == pytest.approx(1.5, abs=1e-3)
    assert fed(values, mean=False).mean is None
    assert fed(torch.ones(2, 3).long()).mean is None


@pytest.mark.parametrize("make", [
    lambda: torch.randn(8, 16), lambda: torch.randn(8, 3, 64, 64), lambda: torch.randn(9).double(),
    lambda: torch.randint(1000, (8, 128)), lambda: torch.randint(50_000, (1, 7)),
])  # fmt: skip
def test_the_same_batch_has_the_same_fingerprint_and_another_has_not(
    make: Callable[[], Tensor],
) -> None:
    """Whatever the type; also one whose samples are merely in another order."""
    batch = make()
    first = float(fed(batch).fingerprint)
    assert float(fed(batch.clone()).fingerprint) == first
    assert float(fed(make()).fingerprint) != first
    if batch.dim() > 1 and len(batch) > 1:
        assert float(fed(batch.roll(1, 0)).fingerprint) != first


def test_a_fingerprint_of_what_is_not_finite_is_no_trouble() -> None:
    """No warning, and none that is finite."""
    for bad in (math.nan, math.inf, -math.inf):
        assert not math.isfinite(float(fed(torch.tensor([[1.0, bad, -bad]])).fingerprint))


def test_batches_of_a_step_add_up() -> None:
    """Four micro-batches of eight."""
    statistics = InputStatistics()
    for _ in range(4):
        statistics.look((torch.ones(8, 5),), {})
    assert statistics.take().batch == 32.0


def test_what_the_model_is_fed_is_told_when_it_changes(watch: Watch) -> None:
    """Type and shape; another length is nothing new."""
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    guard = watch(model, optimizer)
    for dtype, length in ((torch.int64, 6), (torch.int64, 9), (torch.int32, 9)):
        model(torch.zeros(4, length, dtype=dtype)).sum().backward()
        optimizer.step()
    words = loop_of(guard)._outbox.words
    said = [w.message for w in words if isinstance(w, wire.Event) and w.kind == "input"]
    assert said == ["the model is fed int64 (4, 6)", "the model is fed int32 (4, 9)"]
