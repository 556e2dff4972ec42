"""Where a forward begins, in a model that the script never calls as a whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lossguard.probes.discover import entrance_inside
from tests.unit.probes.loops import Records, Watch

pytestmark = pytest.mark.usefixtures("no_link")


class Steps(nn.Module):
    """As a LightningModule: methods of its own call what is inside."""

    def __init__(self) -> None:
        super().__init__()
        self.activation = nn.ReLU()
        self.encoder = nn.Linear(4, 8)
        self.head = nn.Linear(8, 3)

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.head(self.activation(self.encoder(x)))
        return F.cross_entropy(logits, torch.zeros(len(x), dtype=torch.long))


def test_it_is_the_first_part_with_parameters() -> None:
    """Lists of parts are not called either: the first in them is; of a single layer none is."""
    steps = Steps()
    assert entrance_inside(steps) == [steps.encoder]
    first = nn.Linear(2, 2)
    assert entrance_inside(nn.Sequential(nn.ModuleList([nn.ReLU(), first]), steps)) == [first]
    assert entrance_inside(nn.Linear(2, 2)) == []
    assert entrance_inside(None) == []


def test_inputs_and_validation_losses_are_seen_all_the_same(watch: Watch) -> None:
    """From the third step on: with the second it is known that nobody calls the model."""
    model = Steps()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    records = Records(watch(model, optimizer))
    val_losses: list[float | None] = []
    for _ in range(5):
        optimizer.zero_grad()
        model.loss(torch.ones(2, 4)).backward()
        optimizer.step()
        with torch.no_grad():
            val_losses.append(model.loss(torch.ones(2, 4)).item())
    assert records.of("input_absmax") == [None, None, 1.0, 1.0, 1.0]
    assert records.of("val_loss") == [None, None, *map(pytest.approx, val_losses[1:4])]
