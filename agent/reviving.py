"""How a run begins: afresh, with another process, or after a restart of the agent."""

from __future__ import annotations

import logging
import time

from lossguard.agent.commands import name_of
from lossguard.agent.policy_settings import detectors_for
from lossguard.agent.policy_wire import policy_of
from lossguard.agent.run import Run
from lossguard.agent.store import Store
from lossguard.detectors import Observation, Symptom
from lossguard.probes import wire

log = logging.getLogger(__name__)


def fresh_run(hello: wire.Hello) -> Run:
    """Raises ConfigError where the policy is not known, or not valid."""
    policy = policy_of(hello)
    return Run(hello.run, policy, detectors_for(policy), time.time)


def again(before: Run, hello: wire.Hello) -> Run:
    """The run of another process under the same id: what was found before has come to its end."""
    run = fresh_run(hello)
    run.incidents.restore([incident.kept() for incident in before.incidents.all])
    run.incidents.seal()
    run.actions = before.actions
    return run


def revived(hello: wire.Hello, store: Store, saved: dict[str, object] | None) -> Run:
    """The run as it was saved; judged afresh, but with its incidents, where that does not fit."""
    run = fresh_run(hello)
    incidents = store.incidents(hello.run)
    run.incidents.restore(incidents)
    if saved is None:
        return run
    try:
        run.restore(saved)
        run.incidents.lose_sight(Symptom.HANG, run.step)  # whether it still hangs is seen anew
    except Exception:
        log.exception("the saved state of %s does not fit; it is judged afresh", hello.run)
        run = fresh_run(hello)
        run.incidents.restore(incidents)
        for symptom in {f.symptom for i in run.incidents.open for f in i.findings.values()}:
            run.incidents.lose_sight(symptom, run.step)
    return run


def replay(run: Run, store: Store, step: int) -> int:
    """What came after the last save is in the steps: the same path again, without acting. How many
    steps that were."""
    count = 0
    for kept in store.steps_after(run.id, step):
        count += 1
        observation = Observation(kept.step, kept.metrics, kept.time_s, kept.applied)
        outcome = run.observe(observation)
        for order in outcome.orders:
            if store.command(name_of(order, run.step)) is None:
                run.withdraw(order)
    return count
