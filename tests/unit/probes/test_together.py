"""Ranks act together or not at all, also where a vote ends on one of them only."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch
from torch import distributed, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lossguard.policy_choice import choose_policy
from lossguard.probes import measurement, vote_group, wire
from lossguard.probes.ballot import Wish
from lossguard.probes.beginning import begin
from lossguard.probes.together import Together
from lossguard.probes.training_state import TrainingState
from lossguard.probes.wire import SKIP_NONFINITE, SKIP_SCALER
from tests.unit.probes.commanded import Commanded, command
from tests.unit.probes.loops import Tiny, Watch, loop_of, same, weights_of
from tests.unit.probes.test_no_host_read import FakeTransfer, Strict
from tests.unit.probes.votes import Answering, Dead, code, in_memory, open_on, order, rank_of_two

TWO = pytest.mark.usefixtures("two_ranks", "no_link")


@pytest.fixture
def two_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is the first of two."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")


def judge(together: Together, value: float = 0.0, step: int = 7, due: bool = False) -> float | None:
    """The verdict of all; None without a vote."""
    found = together.judge(step, code(value), None, None, due=due)
    return None if found is None else float(found)


# --- a vote that ends on one rank only ----------------------------------------------------


def test_a_rank_whose_vote_failed_does_what_the_others_did_and_no_more_after_that() -> None:
    """They were first: the result counts, for it as well."""
    store = in_memory()
    fine, _ = rank_of_two(Answering(), store, 0)
    cut_off, said = rank_of_two(Dead(), store, 1)
    for together in (fine, cut_off):
        together.hold(order(), lambda: "")
    assert judge(fine, SKIP_NONFINITE) == SKIP_NONFINITE
    assert judge(cut_off, 0) == SKIP_NONFINITE
    assert fine.has_agreed_on(order())
    assert cut_off.has_agreed_on(order())
    assert len(said) == 1
    assert judge(cut_off, SKIP_NONFINITE) is None
    assert not cut_off.has_agreed_on(order())
    assert len(said) == 1


def test_where_the_failure_is_known_first_nobody_acts() -> None:
    """Neither the rank that failed, nor the one that got through."""
    store = in_memory()
    fine, said_fine = rank_of_two(Answering(), store, 0)
    cut_off, said = rank_of_two(Dead(), store, 1)
    for together in (fine, cut_off):
        together.hold(order(), lambda: "")
    assert judge(cut_off, SKIP_NONFINITE) is None
    assert judge(fine, SKIP_NONFINITE) is None
    assert not fine.has_agreed_on(order())
    assert not cut_off.has_agreed_on(order())
    assert [len(said), len(said_fine)] == [1, 1]


def test_a_step_without_consequences_asks_the_store_nothing() -> None:
    """A round trip is for what has to be agreed on."""
    together, _ = rank_of_two(Answering())
    together._arbiter._store = None  # type: ignore[union-attr]
    assert judge(together) == 0.0
    assert judge(together, due=True) == 0.0
    assert together.takes_snapshot


def test_ranks_at_different_steps_do_not_act() -> None:
    """Their votes are not of the same step, whatever they say."""

    def of_another_step(votes: torch.Tensor) -> torch.Tensor:
        other = votes.clone()
        other[7] += 2
        return other

    together, said = rank_of_two(Answering(of_another_step))
    assert judge(together, SKIP_NONFINITE) is None
    assert "not at the same step" in said[0]


@pytest.mark.parametrize(("action", "matters"), [("lower_lr", True), ("checkpoint", False)])
def test_ranks_that_fared_differently_with_the_training_act_no_more(
    action: Any, matters: bool
) -> None:
    """One could not carry out what the other did. A file that one could not write is no matter."""
    seen: list[torch.Tensor] = []

    def notes(votes: torch.Tensor) -> torch.Tensor:
        seen.append(votes.clone())
        return seen[-1]

    given = msgspec.structs.replace(order(), action=action)
    for status in ("done", "failed"):
        together, _ = rank_of_two(Answering())
        together.hold(given, lambda: "")
        judge(together)
        together.done(given, status)
        group: Any = together._group
        group.others = notes
        judge(together, step=8)
    assert torch.equal(seen[0], seen[1]) is not matters


def test_leaving_closes_the_group_by_which_the_others_know() -> None:
    """At once, and once."""
    group = Answering()
    together, said = rank_of_two(group)
    together.leave("the training is over")
    assert group.closed
    assert judge(together, SKIP_NONFINITE) is None
    assert group.times == 0
    assert said == []


# --- commands -----------------------------------------------------------------------------


def test_commands_are_voted_on_in_the_order_of_their_numbers() -> None:
    """However they arrived; and each is told about before the vote for it."""
    together, _ = rank_of_two(Answering())
    for name, number in (("b", 2), ("a", 1)):
        together.hold(order(name, number), lambda: "words")
    together._arbiter.publish("a", 1, "theirs")  # type: ignore[union-attr]
    judge(together)
    assert together.has_agreed_on(order("a"))
    assert not together.has_agreed_on(order("b"))
    assert together.told("a") == ["words", "theirs"]


def test_on_a_device_commands_and_snapshots_are_looked_at_a_step_later() -> None:
    """And nothing at all where this rank wanted nothing."""
    together, _ = rank_of_two(Answering(lag=1))
    together.hold(order(), lambda: "")
    judge(together, step=1)
    assert not together.has_agreed_on(order())
    judge(together, step=2, due=True)
    assert together.has_agreed_on(order())
    together.done(order(), "done")
    takes = [together.takes_snapshot]
    for step, due in ((3, True), (4, False)):
        judge(together, step=step, due=due)
        takes.append(together.takes_snapshot)
    assert takes == [False, True, False]


# --- a whole loop -------------------------------------------------------------------------


@TWO
@pytest.mark.parametrize("policy", ["observe", "guard"])
def test_votes_are_held_under_a_policy_that_acts_and_under_no_other(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    """Under observe no group is even made, and an order is refused."""
    group = Answering()
    loop = Commanded(watch, policy)
    together = loop_of(loop.guard)._acting._together
    assert together is not None
    if policy == "guard":
        open_on(together, group, in_memory())
    else:
        monkeypatch.setattr(vote_group, "form", lambda *_: pytest.fail("a group was made"))
    loop.order(command("a", "lower_lr", factor=0.5))
    loop.run(5)
    assert group.times == (5 if policy == "guard" else 0)
    assert [answer.status for answer in loop.answers] == ["done" if policy == "guard" else "failed"]
    assert loop_of(loop.guard)._shield._off == set()


@TWO
def test_ranks_that_cannot_vote_are_observed_and_that_is_said_once(
    watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    """Here torch.distributed is not initialised. The training is the bare one."""
    guarded = Commanded(watch)
    guarded.run(6)
    said = [r.getMessage() for r in caplog.records if "no vote" in r.getMessage()]
    assert len(said) == 1
    assert "not initialised" in said[0]
    bare = Commanded(watch, "observe")
    bare.run(6)
    assert same(guarded.everything(), bare.everything())


@TWO
@pytest.mark.parametrize("fused", [True, False])
def test_what_another_rank_objects_to_leaves_no_trace_here(watch: Watch, fused: bool) -> None:
    """This rank saw nothing wrong."""
    group = Answering()
    loop = Commanded(watch, fused=fused)
    together = loop_of(loop.guard)._acting._together
    assert together is not None
    open_on(together, group, in_memory())
    loop.run(3)
    before = weights_of(loop.model)

    def objects(votes: torch.Tensor) -> torch.Tensor:
        other = votes.clone()
        other[0] = 1.0
        return other

    group.others = objects
    loop.run(1)
    assert same(weights_of(loop.model), before)
    assert loop.records.of("skipped")[-1] == SKIP_NONFINITE
    group.others = lambda votes: votes.clone()
    loop.run(1)
    assert not same(weights_of(loop.model), before)


@TWO
def test_what_gradscaler_drops_here_is_voted_on_too(watch: Watch) -> None:
    """Every rank takes part in every vote, and the others drop that update as well."""
    loop = Commanded(watch)
    acting = loop_of(loop.guard)._acting
    seen: list[torch.Tensor] = []

    def notes(votes: torch.Tensor) -> torch.Tensor:
        seen.append(votes.clone())
        return torch.cat([torch.zeros(5, dtype=votes.dtype), votes[5:]])

    assert acting._together is not None
    open_on(acting._together, Answering(notes), in_memory())
    found = acting.without_veto(1, code(SKIP_SCALER))
    assert seen[0][:5].tolist() == [0, 0, 0, 0, 1]
    assert found is not None
    assert float(found) == SKIP_SCALER


@TWO
def test_a_part_of_the_probe_that_fails_takes_this_rank_out_of_the_vote(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once: the others must not wait for one that cannot come."""
    loop = Commanded(watch)
    acting = loop_of(loop.guard)._acting
    group = Answering()
    assert acting._together is not None
    open_on(acting._together, group, in_memory())
    loop.run(2)
    open_then = group.closed
    monkeypatch.setattr(acting, "_gate_of", None)
    loop.run(2)
    assert (open_then, group.closed) == (False, True)
    assert group.times == 2


@TWO
def test_where_the_vote_on_the_device_was_given_up_it_is_said_why(watch: Watch) -> None:
    """Its sums are zeros, which would look like ranks that have gone astray."""
    loop = Commanded(watch)
    acting = loop_of(loop.guard)._acting
    group = Answering(torch.zeros_like, lag=1)
    assert acting._together is not None
    open_on(acting._together, group, in_memory())
    acting._together._last = 1, torch.zeros(10), Wish(due=True)
    group.why_over = "a rank is gone"
    loop.run(1)
    assert "a rank is missing (a rank is gone)" in acting._together.why_not


def test_ranks_on_gpus_do_not_vote_unless_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked of the other ranks then, and nobody waits."""
    monkeypatch.delenv(vote_group.ON_CUDA, raising=False)
    with pytest.raises(vote_group.Unfit, match=vote_group.ON_CUDA):
        vote_group.form(in_memory(), "key", 0, 2, torch.device("cuda"))


@TWO
def test_a_rank_that_is_met_in_the_middle_is_observed(
    watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each would count its steps from another one on."""
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    chosen = choose_policy("guard")
    for joins_late, policy in ((False, "guard"), (True, "observe")):
        state = TrainingState(model, [optimizer])
        loop = begin(state, chosen, "r", start_agents=False, joins_late=joins_late)
        assert loop._hello.policy == policy
        loop.close("closed")
    assert sum("first step" in r.getMessage() for r in caplog.records) == 1


@pytest.mark.usefixtures("no_link")
def test_ranks_that_nobody_has_numbered_are_observed(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started by the script itself, each would take itself for the only one, and act."""
    model = Tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert loop_of(watch(model, optimizer, policy="guard"))._hello.policy == "guard"
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    assert loop_of(watch(model, optimizer, policy="guard"))._hello.policy == "observe"


@TWO
def test_a_vote_on_a_fused_optimizer_reads_nothing_from_the_device(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fake tensors raise wherever a decision would need their values."""
    monkeypatch.setattr(measurement, "transfer_for", lambda device, size: FakeTransfer())
    with FakeTensorMode(allow_non_fake_inputs=False):
        params = [nn.Parameter(torch.empty(4, 4, device="cuda")) for _ in range(3)]
        optimizer = torch.optim.AdamW(params, lr=1e-3, fused=True)
        guard = watch(None, optimizer, policy="guard")
        loop = loop_of(guard)
        acting = loop._acting
        acting._ring._next_step = 10**9
        acting._share = 0.5
        assert acting._together is not None
        group = Answering(lag=1)
        open_on(acting._together, group, in_memory(), torch.device("cuda", 0))
        loop._link.limits = wire.Limits(run="r", version=1, grad_norm=3.0, loss=5.0)
        for _ in range(3):
            for p in params:
                p.grad = torch.empty(4, 4, device="cuda")
            loop._senses.tap.before_backward(torch.empty((), device="cuda"))
            loop._senses.tap.after_backward()
            with Strict():
                optimizer.step()
        assert loop._shield._off == set()
        assert acting._together.why_not == ""
        assert group.times == 3
