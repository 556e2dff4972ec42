"""How long it takes until a stop is called, by the bounds that come with Lossguard.

python -m tests.e2e.hangs.timing [SECONDS a step [WAY...]]: a line for each way to stop, as
docs/hangs.md has them.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence

from lossguard.home import find_home
from tests.e2e.hangs.trainings import Trainings
from tests.support.agents import AgentProcess, answering
from tests.support.memory_limit import memory_limited_group
from tests.support.waiting import eventually

WAYS = (
    "endless", "worker_waits", "native", "stopped", "killed", "worker_killed", "raises",
    "denied_memory", "out_of_memory",
)  # fmt: skip
PATIENCE_S = 120.0


def main(step_s: float, ways: Sequence[str]) -> None:
    """All at once."""
    with tempfile.TemporaryDirectory(prefix="lg-", dir="/tmp") as folder:
        os.environ["LOSSGUARD_HOME"] = folder
        with answering(AgentProcess(find_home())) as agent:
            trainings = Trainings(agent, 'base = "observe"')
            try:
                with memory_limited_group(700 << 20) as group:
                    for how in ways:
                        if how != "out_of_memory" or group is not None:
                            inside = group if how == "out_of_memory" else None
                            trainings.begin(how, 90, step_s, group=inside)
                    measure(trainings, step_s)
            finally:
                trainings.end()


def measure(trainings: Trainings, step_s: float) -> None:
    """From the line that stops to the incident that is opened."""
    begun_s: dict[str, float] = {}

    def await_stop(how: str) -> None:
        trainings.await_stop(how)
        begun_s[how] = time.time()

    waiting = [threading.Thread(target=await_stop, args=(how,)) for how in trainings.processes]
    for thread in waiting:
        thread.start()
    for thread in waiting:
        thread.join()
    for how in trainings.processes:
        (found,) = eventually(lambda how=how: trainings.incidents(how), PATIENCE_S)  # type: ignore[misc]
        after_s = found.opened - begun_s[how]
        times = after_s / step_s
        sys.stdout.write(
            f"{how:14} {found.symptom:12} {found.severity:8} {after_s:5.1f} s "
            f"{times:5.0f} steps  {found.message}\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 0.5, sys.argv[2:] or WAYS)
