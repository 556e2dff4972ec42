"""The statistics of predictions, against float64 and a count by hand."""

from __future__ import annotations

import math
import types
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lossguard.probes.measurement import missing_value
from lossguard.probes.outputs import NAMES as ALL_NAMES
from lossguard.probes.outputs import OutputStatistics
from lossguard.probes.wire import MISSING_BITS
from tests.unit.probes.loops import Records, Tiny, Watch, loss_of

pytestmark = pytest.mark.usefixtures("no_link")

NAMES = [name for name in ALL_NAMES if name != "eos_share"]
"""What is there without knowing which class ends a text."""


def statistics(logits: Tensor, target: Tensor, ignore_index: int = -100) -> list[float] | None:
    """The four numbers, or None where they are missing or nothing was looked at."""
    found = OutputStatistics(missing_value(torch.device("cpu")))
    found.look(logits, target, ignore_index)
    numbers = found.take()
    assert found.take() is None
    if numbers is None or int(numbers.view(torch.int32)[0]) == MISSING_BITS:
        return None
    assert int(numbers.view(torch.int32)[4]) == MISSING_BITS, "nobody knows how a text ends"
    return [float(number) for number in numbers[:4]]


def test_the_share_of_ends_where_it_is_known_which_class_ends_a_text() -> None:
    """Of the positions that count, those at which the end is the most likely."""
    logits = torch.zeros(8, 5)
    logits[:, 1] = 1.0
    logits[:3, 4] = 2.0
    target = torch.tensor([0, 0, -100, 0, 0, -100, 0, 0])
    found = OutputStatistics(missing_value(torch.device("cpu")), eos_id=4)
    found.look(logits, target, -100)
    numbers = found.take()
    assert numbers is not None
    assert float(numbers[4]) == pytest.approx(2 / 6)
    assert float(numbers[1]) == pytest.approx(4 / 6)


def by_hand(logits: Tensor, target: Tensor, ignore_index: int = -100) -> list[float]:
    """Over all rows (n, C) whose target counts, in float64."""
    counted = target != ignore_index
    rows, classes = logits[counted].double(), target[counted]
    log_p = rows.log_softmax(1)
    entropy = -(log_p.exp() * log_p).nan_to_num(0.0).sum(1).mean() / math.log(rows.shape[1])
    tops = [
        max(Counter(values.tolist()).values()) / len(classes)
        for values in (rows.argmax(1), classes)
    ]
    return [float(entropy), *tops, float(rows.logsumexp(1).abs().mean())]


@pytest.mark.parametrize("classes", [2, 11, 5000])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_small_batches_are_computed_exactly(classes: int, scale: float) -> None:
    """From uniform to certain predictions, on every row."""
    logits, target = scale * torch.randn(60, classes) + 3.0, torch.randint(classes, (60,))
    assert statistics(logits, target) == pytest.approx(by_hand(logits, target), abs=2e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_precision(dtype: torch.dtype) -> None:
    """Computed in float32."""
    logits, target = torch.randn(60, 11).to(dtype), torch.randint(11, (60,))
    assert statistics(logits, target) == pytest.approx(by_hand(logits, target), abs=1e-5)


def test_ignored_rows_do_not_count() -> None:
    """Nor what stands in them, NaN included; where all are ignored nothing is measured."""
    logits, target = torch.randn(60, 11), torch.randint(11, (60,))
    target[::3] = 4
    target[1::2] = -100
    expected = by_hand(logits, target)
    logits[1::2] = math.nan
    assert statistics(logits, target) == pytest.approx(expected, abs=1e-5)
    expected = by_hand(logits.nan_to_num(), target.clamp_min(0), 4)
    assert statistics(logits.nan_to_num(), target.clamp_min(0), 4) == pytest.approx(expected)
    assert statistics(logits, torch.full((60,), -100)) is None


@pytest.mark.parametrize("shape", [(), (6,), (2, 3), (2, 1, 3)])
def test_every_shape_that_cross_entropy_takes(shape: tuple[int, ...]) -> None:
    """(C), (N, C), (N, C, d1, ...), of classes and of probabilities."""
    size = (5,) if shape == () else (shape[0], 5, *shape[1:])
    logits, target = torch.randn(size), torch.randint(5, shape)
    functional.cross_entropy(logits, target)
    flat = logits.reshape(1, 5) if shape == () else logits.movedim(1, -1).reshape(-1, 5)
    expected = by_hand(flat, target.reshape(-1))
    assert statistics(logits, target) == pytest.approx(expected, abs=1e-5)
    one_hot = functional.one_hot(target, 5).float()
    probabilities = 0.9 * (one_hot if shape == () else one_hot.movedim(-1, 1)) + 0.02
    functional.cross_entropy(logits, probabilities)
    assert statistics(logits, probabilities) == pytest.approx(expected, abs=1e-5)


def test_large_batches_are_sampled_evenly() -> None:
    """256 positions of images of which a third on the left is one class."""
    logits = torch.randn(12, 4, 40, 40)
    logits[:, 2, :, :13] += 50.0
    target = torch.randint(4, (12, 40, 40))
    found = statistics(logits, target)
    rows = logits.movedim(1, -1).reshape(-1, 4)
    assert found == pytest.approx(by_hand(rows, target.flatten()), abs=0.1, rel=0.25)


def test_a_large_vocabulary_is_looked_at_in_fewer_rows() -> None:
    """No temporary has more than four million elements."""
    seen: list[int] = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            out = func(*args, **(kwargs or {}))
            is_view = isinstance(out, Tensor) and out.data_ptr() == logits.data_ptr()
            seen.append(out.numel() if isinstance(out, Tensor) and not is_view else 0)
            return out

    logits = torch.zeros(300, 100_000)
    with Sizes():  # type: ignore[no-untyped-call]
        found = statistics(logits, torch.zeros(300, dtype=torch.long))
    assert found == pytest.approx([1.0, 1.0, 1.0, math.log(100_000)], rel=1e-5)
    assert 1_500_000 < max(seen) <= 1 << 22


def test_classes_ruled_out_by_minus_infinity_are_no_trouble() -> None:
    """They add nothing to the entropy."""
    logits = torch.zeros(4, 8)
    logits[:, 4:] = -math.inf
    found = statistics(logits, torch.zeros(4, dtype=torch.long))
    assert found == pytest.approx([math.log(4) / math.log(8), 1.0, 1.0, math.log(4)])


def test_a_measured_nan_stays_one() -> None:
    """It is the trouble to tell."""
    found = statistics(torch.full((4, 3), math.nan), torch.zeros(4, dtype=torch.long))
    assert found is not None
    assert math.isnan(found[0])
    assert math.isnan(found[3])


@pytest.mark.parametrize(
    ("logits", "target"),
    [
        (torch.zeros(4, 1), torch.zeros(4, dtype=torch.long)),
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)),
        (torch.zeros(4, 3, device="meta"), torch.zeros(4, dtype=torch.long)),
        ("logits", None),
    ],
)
def test_what_has_no_statistics_has_none(logits: Any, target: Any) -> None:
    """One class, no rows, no values, no tensors."""
    assert statistics(logits, target) is None


def test_every_sixteenth_step_has_them(watch: Watch) -> None:
    """Of the first cross-entropy of the step; not of evaluation; the steps between have none."""
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    records = Records(watch(model, optimizer))
    expected: list[float] = []
    for step in range(1, 34):
        optimizer.zero_grad()
        with torch.no_grad():
            loss_of(model, 5)
        if step == 16:
            batch = torch.randint(11, (4, 6))
            logits = model(batch).flatten(0, 1)
            functional.cross_entropy(logits, batch.flatten()).backward()
            expected = by_hand(logits.detach(), batch.flatten())
        loss_of(model, step).backward()
        optimizer.step()
    assert [records.steps[15][name] for name in NAMES] == pytest.approx(expected, abs=1e-5)
    measured = [i + 1 for i, step in enumerate(records.steps) if set(NAMES) <= set(step)]
    assert measured == [16, 32]
    assert not any(set(NAMES) & set(step) for i, step in enumerate(records.steps) if i % 16 != 15)


def test_a_loss_module_with_smoothing_and_weights_is_seen_too(watch: Watch) -> None:
    """The logits are the same, whatever is done with them."""
    model = nn.Linear(3, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    records = Records(watch(model, optimizer))
    criterion = nn.CrossEntropyLoss(weight=torch.rand(5), label_smoothing=0.1, ignore_index=2)
    x, target = torch.randn(20, 3), torch.randint(5, (20,))
    for _ in range(16):
        criterion(model(x), target).backward()
        optimizer.step()
    expected = by_hand(model(x).detach(), target, 2)
    assert [records.steps[15][name] for name in NAMES] == pytest.approx(expected, abs=1e-5)


def test_the_end_of_a_text_is_known_from_the_model_or_told(watch: Watch) -> None:
    """As models of Hugging Face say it, or by ``attach``; else there is no such share."""
    shares = []
    for known, told in ((4, None), (None, 4), (None, None)):
        model = nn.Linear(3, 5)
        with torch.no_grad():
            model.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 0.0, 100.0]))
        model.config = types.SimpleNamespace(eos_token_id=known)  # type: ignore[assignment]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        records = Records(watch(model, optimizer, eos_id=told))
        for _ in range(16):
            nn.functional.cross_entropy(model(torch.ones(6, 3)), torch.zeros(6).long()).backward()
            optimizer.step()
        shares.append(records.of("eos_share")[-1])
    assert shares == [1.0, 1.0, None]
