"""The loss tap: the number the script minimises, however it gets there."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lossguard.probes import roots as roots_module
from lossguard.probes.losses import LossTap
from tests.unit.probes.loops import Records, Tiny, Watch, loss_of, tokens

pytestmark = pytest.mark.usefixtures("no_link")


class Bare:
    """A guarded one-parameter loop: each ``backward`` of x * value has the loss ``value``."""

    def __init__(self, watch: Watch) -> None:
        self.model = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.model.weight)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0)
        self.records = Records(watch(self.model, self.optimizer))

    def loss(self, value: float) -> Tensor:
        """A scalar loss of this value."""
        loss: Tensor = self.model(torch.full((1, 1), value)).sum()
        return loss

    def step(self) -> float | None:
        """Steps; the loss that was recorded."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        return self.records.of("loss")[-1]


@pytest.fixture
def bare(watch: Watch) -> Bare:
    """A loop with nothing around it."""
    return Bare(watch)


def test_a_plain_loss_is_itself(bare: Bare) -> None:
    """The common case, over several steps."""
    for value in (3.0, 2.0, 1.0):
        bare.loss(value).backward()
        assert bare.step() == value


def test_accumulated_losses_are_averaged(bare: Bare) -> None:
    """Micro-batches whose losses the script does not divide."""
    for value in (1.0, 2.0, 6.0):
        bare.loss(value).backward()
    assert bare.step() == pytest.approx(3.0)


@pytest.mark.parametrize("how", ["divided", "multiplied"])
def test_losses_the_script_has_divided_are_summed(bare: Bare, how: str) -> None:
    """``loss / N`` and ``loss * (1 / N)`` before ``backward`` mean the same as neither."""
    for value in (1.0, 2.0, 6.0, 7.0):
        loss = bare.loss(value)
        (loss / 4 if how == "divided" else loss * 0.25).backward()
    assert bare.step() == pytest.approx(4.0)


def test_the_last_window_of_an_epoch_does_not_look_like_a_lower_loss(bare: Bare) -> None:
    """Three micro-batches, each divided by four as always: their mean is what counts."""
    for _ in range(4):
        (bare.loss(2.0) / 4).backward()
    assert bare.step() == pytest.approx(2.0)
    for _ in range(3):
        (bare.loss(2.0) / 4).backward()
    assert bare.step() == pytest.approx(2.0)
    (bare.loss(2.0) / 4).backward()
    assert bare.step() == pytest.approx(2.0)


@pytest.mark.parametrize("on_host", [True, False])
@pytest.mark.parametrize("windows", [(2, 2), (4, 1, 4)])
def test_sums_over_the_tokens_of_all_micro_batches_are_summed(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, windows: tuple[int, ...], on_host: bool
) -> None:
    """As trainers do that weigh every token the same: one tensor divides them all, be it on a
    device that must not be asked."""
    if not on_host:
        monkeypatch.setattr(roots_module, "_as_divisor", lambda other: 1.0)
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    records = Records(watch(model, optimizer))
    expected = []
    for micro in windows:
        batches = [tokens(seed)[:, : 2 + seed] for seed in range(micro)]
        number = torch.tensor(sum(b.numel() for b in batches))
        total = 0.0
        for batch in batches:
            logits, target = model(batch).flatten(0, 1), batch.flatten()
            loss = nn.functional.cross_entropy(logits, target, reduction="sum") / number / 1
            loss.backward()
            total += float(loss.detach())
        optimizer.step()
        optimizer.zero_grad()
        expected.append(total)
    assert records.of("loss") == pytest.approx(expected)


def test_sums_over_the_tokens_of_each_are_averaged(watch: Watch) -> None:
    """Where every micro-batch has a divisor of its own."""
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    records = Records(watch(model, optimizer))
    losses = []
    for seed in range(3):
        batch = tokens(seed)
        logits, target = model(batch).flatten(0, 1), batch.flatten()
        number = (target >= 0).sum()
        loss = nn.functional.cross_entropy(logits, target, reduction="sum") / number
        del number
        loss.backward()
        losses.append(float(loss.detach()))
        del loss
    optimizer.step()
    assert records.of("loss") == pytest.approx([sum(losses) / 3])


def test_several_roots_of_one_backward_count_each(bare: Bare) -> None:
    """``torch.autograd.backward([a, b])``."""
    torch.autograd.backward([bare.loss(1.0), bare.loss(3.0)])
    assert bare.step() == pytest.approx(2.0)


def test_roots_that_are_no_scalars_are_no_losses(bare: Bare) -> None:
    """A pipeline stage hands its gradient to ``backward``: there is no loss to be seen."""
    out = bare.model(torch.ones(3, 1))
    out.backward(torch.ones(3, 1))
    assert bare.step() is None


def test_a_loss_of_one_element_is_a_loss(bare: Bare) -> None:
    """Shape (1,) and float64 too."""
    bare.loss(2.0).reshape(1).double().backward()
    assert bare.step() == 2.0


@pytest.mark.parametrize("many", [False, True])
def test_a_scaled_loss_counts_unscaled(bare: Bare, many: bool) -> None:
    """GradScaler's factor is not part of the loss, for one loss and for a list of them."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    loss = bare.loss(3.0)
    scaled = scaler.scale([loss])[0] if many else scaler.scale(loss)
    scaled.backward()
    assert bare.step() == 3.0


def test_scaled_and_divided_losses_are_summed(bare: Bare) -> None:
    """``scaler.scale(loss / 2).backward()`` twice."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for value in (1.0, 3.0):
        scaler.scale(bare.loss(value) / 2).backward()
    assert bare.step() == pytest.approx(2.0)


def test_what_the_script_does_with_its_loss_later_does_not_change_ours(bare: Bare) -> None:
    """Running means are kept in place by many scripts."""
    loss = bare.loss(2.0)
    loss.backward()
    loss.detach().add_(40.0)
    assert bare.step() == 2.0


def test_gradients_thrown_away_take_their_loss_with_them(bare: Bare) -> None:
    """A script that skips a bad batch by itself must not get the next update vetoed for it."""
    bare.loss(1.0).backward()
    assert bare.step() == 1.0
    bare.loss(float("nan")).backward()
    bare.optimizer.zero_grad()
    bare.loss(2.0).backward()
    assert bare.step() == 2.0


def test_another_models_loss_is_not_ours(watch: Watch) -> None:
    """Two loops in one process: each sees its own losses only, from the first step on."""
    one, other = Bare(watch), Bare(watch)
    for _ in range(3):
        one.loss(1.0).backward()
        assert one.step() == 1.0
        other.loss(5.0).backward()
        assert other.step() == 5.0


def test_a_critics_backward_through_the_generator_counts_for_the_generator(watch: Watch) -> None:
    """A GAN: the generator's loss reaches both, and the critic throws those gradients away."""
    critic, generator = Bare(watch), Bare(watch)
    for _ in range(3):
        critic.optimizer.zero_grad()
        critic.loss(4.0).backward()
        critic.optimizer.step()
        generator.optimizer.zero_grad()
        critic.model(generator.model(torch.full((1, 1), 2.0))).sum().backward()
        generator.optimizer.step()
    assert critic.records.of("loss") == [4.0] * 3
    assert generator.records.of("loss") == [2.0] * 3


def test_reentrant_checkpointing_does_not_hide_the_loss(watch: Watch) -> None:
    """It calls ``backward`` within ``backward``; the outer one is the loss."""
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    records = Records(watch(model, optimizer))
    hidden = model.embedding(torch.arange(4))
    out: Tensor = checkpoint(lambda x: model.head(x).sum(), hidden, use_reentrant=True)
    (out * 1.0).backward()
    optimizer.step()
    assert records.of("loss") == [pytest.approx(float(out.detach()), rel=1e-6)]


def test_a_loss_that_is_never_backed_does_not_keep_its_graph() -> None:
    """A scaled loss the script drops frees its activations at once, not a step later."""
    tap = LossTap()
    weight = torch.ones(3, requires_grad=True)
    kept = weight * 2
    loss = (kept * kept).sum()
    scaled = loss * 1024
    tap.on_scale(loss, scaled)
    graph = weakref.ref(kept)
    del kept, loss, scaled
    gc.collect()
    assert graph() is None


def test_a_graph_that_is_gone_costs_no_loss() -> None:
    """Asking a freed graph for its divisor must not switch the tap off."""
    tap = LossTap()
    loss = torch.ones(3, requires_grad=True).sum() / 4
    loss.backward()
    tap.before_backward(loss)
    tap.after_backward()
    taken = tap.take()
    assert taken is not None
    assert float(taken) == 0.75


def test_a_backward_that_raises_is_not_counted(bare: Bare) -> None:
    """The next step has the loss of the backward that worked."""
    loss = bare.loss(3.0)
    loss.backward()
    assert bare.step() == 3.0
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
    bare.loss(1.0).backward()
    assert bare.step() == 1.0


def test_the_loss_of_a_real_model_is_the_scripts(watch: Watch) -> None:
    """Bitwise, step by step."""
    model = Tiny()
    optimizer = torch.optim.AdamW(model.parameters())
    records = Records(watch(model, optimizer))
    losses = []
    for seed in range(5):
        optimizer.zero_grad()
        loss = loss_of(model, seed)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert records.of("loss") == losses


@pytest.mark.parametrize("are_there", [True, False])
def test_losses_from_before_the_watch_belong_to_the_gradients_that_are_there(
    are_there: bool,
) -> None:
    """A watch that begins between two micro-batches; where there are no gradients, the losses were
    of something else."""
    model = nn.Linear(1, 1, bias=False)
    tap, before = LossTap(list(model.parameters())), LossTap()
    for value, heard in ((1.0, before), (3.0, tap)):
        loss = 0 * model(torch.ones(1, 1)).sum() + value
        heard.before_backward(loss)
        loss.backward()
        heard.after_backward()
        if heard is before:
            tap.take_over(roots_module.Unscaled().take(loss))
            model.weight.grad = model.weight.grad if are_there else None
    taken = tap.take()
    assert taken is not None
    assert float(taken) == (2.0 if are_there else 3.0)
