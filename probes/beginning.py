"""How a watch begins: who this run is, what it may do, and the loop that watches it."""

from __future__ import annotations

import logging

import msgspec
import torch.distributed as dist

from lossguard.home import at_agent, find_home
from lossguard.policy_choice import ChosenPolicy
from lossguard.probes import wire
from lossguard.probes.identity import make_hello
from lossguard.probes.loop import Loop
from lossguard.probes.parameters import optimizer_parameters
from lossguard.probes.run_config import config_of
from lossguard.probes.training_state import TrainingState

log = logging.getLogger("lossguard")


def begin(
    state: TrainingState,
    policy: ChosenPolicy,
    name: str | None,
    *,
    part: str = "",
    start_agents: bool = True,
    remote: str = "",
    writes_are_hidden: bool = False,
    joins_late: bool = False,
) -> Loop:
    """A loop that watches ``state`` from the next step on. Raises what goes wrong.

    ``part`` tells it from the other runs of this process. It observes where it could act on half
    of a training only, and says so. With ``joins_late`` each rank counts from another step.
    ``remote`` is the agent of another host.
    """
    hello = make_hello(name, policy.base, policy.text, part=part)
    if policy.base == "guard" and (ranks := _unannounced_ranks(hello)):
        log.warning("policy 'guard' acts on %d ranks where their launcher says who is who (RANK, "
                    "WORLD_SIZE), as torchrun does; this run is observed", ranks)  # fmt: skip
        hello = _observed(hello)
    if policy.base == "guard" and hello.world_size > 1 and joins_late:
        log.warning("policy 'guard' acts on several ranks where all are watched from their first "
                    "step; this run is observed")  # fmt: skip
        hello = _observed(hello)
    if policy.base == "guard" and state.optimizers and (stray := _trained_elsewhere(state)):
        log.warning("policy 'guard' acts where all optimizers of a model are known, and %r is not "
                    "among their parameters; this run is observed", stray)  # fmt: skip
        hello = _observed(hello)
    hello = msgspec.structs.replace(hello, config=config_of(state))
    home = find_home()
    home = (at_agent(home, remote) if remote else home).create()
    return Loop(state, hello, home, start_agents=start_agents, writes_are_hidden=writes_are_hidden)


def _unannounced_ranks(hello: wire.Hello) -> int:
    """How many train together, where we would take this process for the only one; else 0."""
    there = dist.is_available() and dist.is_initialized()
    ranks = dist.get_world_size() if there else 1
    return ranks if ranks > hello.world_size else 0


def _trained_elsewhere(state: TrainingState) -> str:
    """The first trainable parameter of the model that no optimizer updates, or empty."""
    owned = {id(p) for p in optimizer_parameters(state)}
    for name, parameter in state.model.named_parameters() if state.model is not None else ():
        if parameter.requires_grad and id(parameter) not in owned:
            return name
    return ""


def _observed(hello: wire.Hello) -> wire.Hello:
    return msgspec.structs.replace(hello, policy="observe")
