"""What ``torch.compile`` makes of a training, watched and not: the same graphs and numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from tests.unit.probes.loops import Records, Tiny, Watch, loop_of, same, tokens

pytestmark = [
    pytest.mark.usefixtures("no_link"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


class Compiled(NamedTuple):
    """What dynamo made of a training, and what came of it."""

    graphs: int
    operations: int
    breaks: int
    losses: list[float]
    weights: list[Tensor]


def train(
    watch: Watch | None, backend: str, *, clips: bool = True, steps: int = 34
) -> tuple[Compiled, Records | None]:
    """A compiled model and a compiled update; two of the steps are sampled, one evaluates."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.manual_seed(0)
    model = Tiny()
    optimizer = torch.optim.AdamW(model.parameters(), lr=torch.tensor(1e-2))
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(model, backend=counter)
    records = Records(watch(compiled, optimizer)) if watch else None
    update: Callable[[], None] = torch.compile(lambda: optimizer.step(), backend=counter)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        batch = tokens(step)
        loss = nn.functional.cross_entropy(compiled(batch).flatten(0, 1), batch.flatten())
        loss.backward()
        if clips:
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        update()
        losses.append(float(loss.detach()))
    breaks = sum(torch._dynamo.utils.counters["graph_break"].values())
    weights = [p.detach().clone() for p in model.parameters()]
    return Compiled(counter.frame_count, counter.op_count, breaks, losses, weights), records


def assert_left_whole(watched: Compiled, plain: Compiled) -> None:
    """No graph more (a recompilation would be one), none larger or smaller, no more breaks: torch
    itself breaks twice around an update, where our hooks run instead."""
    assert (watched.graphs, watched.operations) == (plain.graphs, plain.operations)
    assert watched.breaks <= plain.breaks
    assert watched.losses == plain.losses
    assert same(watched.weights, plain.weights)


@pytest.mark.parametrize(("backend", "clips"), [("eager", False), ("aot_eager", True)])
def test_a_compiled_model_and_update_are_compiled_as_without_a_watch(
    watch: Watch, backend: str, clips: bool
) -> None:
    """Over 34 steps; what is measured is there at every one, but for the activations."""
    plain, _ = train(None, backend, clips=clips)
    watched, records = train(watch, backend, clips=clips)
    assert_left_whole(watched, plain)
    assert records is not None
    assert not loop_of(records.guard)._shield._off
    assert records.of("loss") == pytest.approx(plain.losses)
    assert None not in records.of("grad_norm")
    assert None not in records.of("grad_norm/head.weight")
    assert "weight_norm/head.weight" in records.steps[15]
    assert "update_ratio/head.weight" in records.steps[31]
    assert not any(name.startswith("act_rms/") for step in records.steps for name in step)
