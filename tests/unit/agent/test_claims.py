"""Which key speaks for which rank, and the policy of runs that bring none."""

from __future__ import annotations

import copy

import msgspec
import pytest

from lossguard.agent.peers import Peer, Refused
from lossguard.agent.policy_file import find_policy
from lossguard.agent.policy_text import as_toml
from lossguard.agent.registry import Registry
from lossguard.agent.store import Store
from lossguard.probes import wire
from tests.support.probe import hello_of

A = Peer("key a at 10.0.0.2", "key a", "probe", is_local=False)
B = Peer("key b at 10.0.0.3", "key b", "probe", is_local=False)


@pytest.fixture
def registry(store: Store) -> Registry:
    return Registry(store, lambda identity, frame: True)


def bye(run: str = "run-a") -> wire.Bye:
    return wire.Bye(run=run, rank=0, step=0, reason="finished")


def state(registry: Registry, run: str = "run-a") -> str:
    return registry.runs[run].state


def say(registry: Registry, message: wire.Message, *peer: Peer) -> None:
    registry.take(b"id", [wire.encode(message)], *peer)


def test_a_rank_that_is_there_is_its_keys_alone(registry: Registry) -> None:
    """No other greets for it or ends it, the owner of this host included; the key itself does."""
    say(registry, hello_of(), A)
    for other in (B, None):
        for message in (hello_of(pid=1), bye()):
            with pytest.raises(Refused, match="another key"):
                say(registry, message, *([other] if other else []))
    assert state(registry) == "running"
    say(registry, bye(), A)
    assert state(registry) == "finished"


def test_ranks_of_one_run_may_have_a_key_each(registry: Registry) -> None:
    """As where every host of a training has its own."""
    say(registry, hello_of(world_size=2), A)
    say(registry, hello_of(world_size=2, rank=1, pid=2), B)
    assert set(registry.runs["run-a"].ranks) == {0, 1}


def test_a_run_that_is_over_may_be_taken_up_with_another_key(registry: Registry) -> None:
    """After a move to another host; but not without a hello."""
    say(registry, hello_of(), A)
    say(registry, bye(), A)
    say(registry, bye(), B)
    say(registry, hello_of(pid=1), B)
    assert state(registry) == "running"
    say(registry, bye(), B)
    assert state(registry) == "finished"


def test_no_flood_of_claims_takes_a_rank_from_its_key(registry: Registry) -> None:
    """However many others somebody claims since; its own key speaks on."""
    say(registry, hello_of(), A)
    say(registry, hello_of("run-b"), B)
    claim = copy.copy(hello_of("run-b"))
    for number in range(100_001):
        msgspec.structs.force_setattr(claim, "rank", number)
        registry._claims.allow(claim, B, registry.runs["run-b"])
    with pytest.raises(Refused, match="another key"):
        say(registry, hello_of(pid=1), B)
    say(registry, bye(), A)
    assert state(registry) == "finished"


def test_one_key_cannot_begin_runs_without_end(registry: Registry) -> None:
    """The runs of others stay listed; another key, and the owner, begin as before."""
    for number in range(60):
        say(registry, hello_of(f"flood-{number}"), A)
        say(registry, bye(f"flood-{number}"), A)
    with pytest.raises(Refused, match="runs within a minute"):
        say(registry, hello_of("flood-60"), A)
    say(registry, hello_of("run-b"), B)
    say(registry, hello_of("run-mine"))
    assert {"run-b", "run-mine"} <= set(registry.runs)


def test_runs_without_a_policy_get_the_agents_and_act_as_they_said(store: Store) -> None:
    """Its settings are taken; whether anything is done to the run is not the agent's to say."""
    text = as_toml(find_policy("strict"))
    assert find_policy("strict").acts
    registry = Registry(store, lambda identity, frame: True, text)
    say(registry, hello_of("run-watched", policy="observe"))
    say(registry, hello_of("run-guarded", policy="guard"))
    own = as_toml(find_policy("classic"))
    say(registry, hello_of("run-own", policy="guard", policy_text=own))
    policies = {name: live.run.policy for name, live in registry.runs.items()}
    assert policies["run-watched"].settings == find_policy("strict").settings
    assert not policies["run-watched"].acts
    assert policies["run-guarded"].name == "strict"
    assert policies["run-guarded"].acts
    assert policies["run-own"].name == "classic"


@pytest.mark.parametrize("run", ["..", ".", "...", "a/b", "", "a\n", "../x"])
def test_no_id_is_a_way_to_somewhere_else(registry: Registry, run: str) -> None:
    """The folders of incidents are named after runs."""
    with pytest.raises(ValueError, match="not a run's id"):
        say(registry, hello_of(run))
    assert registry.runs == {}
