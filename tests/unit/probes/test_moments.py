"""Whether Adam's second moments fit the gradients: 1 where they do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lossguard.probes.measurement import missing_value
from lossguard.probes.moments import SecondMoments
from lossguard.probes.wire import MISSING_BITS

CPU = torch.device("cpu")


def trained(scale: float, steps: int = 40, **options: object) -> tuple[list[Tensor], list[float]]:
    """Parameters after some steps of AdamW with gradients of size 1, and then one of ``scale``;
    their ratios."""
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.zeros(400)), nn.Parameter(torch.zeros(30, 30))]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, **options)  # type: ignore[arg-type]
    for i in range(steps + 1):
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=generator) * (scale if i == steps else 1.0)
        if i < steps:
            optimizer.step()
    found = SecondMoments(parameters, [0, 1], missing_value(CPU)).measure([optimizer])
    assert found is not None
    return list(parameters), found.tolist()


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"foreach": True}, {"amsgrad": True}])
def test_it_is_about_one_in_health(options: dict[str, object]) -> None:
    """Also while the moments are young, whose bias is corrected."""
    for steps in (12, 40):
        assert trained(1.0, steps, **options)[1] == pytest.approx([1.0, 1.0], abs=0.3)


def test_it_grows_with_the_gradient_and_falls_after_a_giant_one() -> None:
    """A hundred times as large now: about a hundred. Small against the moments: about nothing."""
    assert trained(100.0)[1] == pytest.approx([100.0, 100.0], rel=0.25)
    assert trained(0.01)[1] == pytest.approx([0.01, 0.01], rel=0.25)


def test_it_is_the_ratio_by_hand() -> None:
    """Against the optimizer's own state."""
    parameter = nn.Parameter(torch.zeros(50))
    optimizer = torch.optim.Adam([parameter], lr=1e-3, betas=(0.9, 0.95))
    for i in range(7):
        parameter.grad = torch.linspace(0.5, 2.0, 50) * (1 + i % 3)
        if i < 6:
            optimizer.step()
    moment = optimizer.state[parameter]["exp_avg_sq"].double() / (1 - 0.95**6)
    assert parameter.grad is not None
    expected = float((parameter.grad.double().square() / moment).mean().sqrt())
    found = SecondMoments([parameter], [0], missing_value(CPU)).measure([optimizer])
    assert found is not None
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_without_such_moments_there_is_nothing() -> None:
    """Another optimizer, a first step, a gradient that still carries a loss scale."""
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.ones(3)
    moments = SecondMoments([parameter], [0], missing_value(CPU))
    sgd, adam = torch.optim.SGD([parameter], lr=0.1), torch.optim.Adam([parameter])
    assert moments.measure([]) is None
    assert moments.measure([sgd]) is None
    assert moments.measure([adam]) is None
    adam.step()
    assert moments.measure([sgd, adam]) is not None
    adam.grad_scale = torch.ones(())  # type: ignore[attr-defined]
    assert moments.measure([adam]) is None


def test_a_parameter_without_a_gradient_is_missing() -> None:
    """The others are not."""
    first, second = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.Adam([first, second])
    first.grad = torch.ones(3)
    optimizer.step()
    found = SecondMoments([first, second], [0, 1], missing_value(CPU)).measure([optimizer])
    assert found is not None
    assert float(found[0]) == pytest.approx(1.0, rel=1e-3)
    assert int(found.view(torch.int32)[1]) == MISSING_BITS


def test_sixteen_are_watched_spread_over_all() -> None:
    """Of those that have an update ratio."""
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(100)]
    moments = SecondMoments(parameters, range(0, 100, 2), missing_value(CPU))
    assert len(moments.watched) == 16
    assert moments.watched[0] == 0
    assert moments.watched[-1] >= 90
    assert all(i % 2 == 0 for i in moments.watched)
