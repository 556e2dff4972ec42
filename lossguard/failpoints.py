"""Failures on purpose, at named places, for tests: ``LOSSGUARD_FAILPOINT=site:kill``.

    LOSSGUARD_FAILPOINT=store.commit:kill          # as by kill -9, the first time it is reached
    LOSSGUARD_FAILPOINT=probe.step:raise@3,a:sleep=0.5

Nothing happens unless the variable is set when the process begins. ``@N`` waits for the N-th time.
A name that ends in ``*`` stands for all that begin so.
"""

from __future__ import annotations

import os
import re
import signal
import time
from dataclasses import dataclass

_RULE = re.compile(r"(?P<site>[\w. -]*\*?):(?P<do>kill|raise|sleep)(=(?P<s>[\d.]+))?(@(?P<n>\d+))?")


class FailpointReached(Exception):
    """What ``raise`` raises."""


@dataclass
class Rule:
    site: str
    do: str
    seconds: float
    left: int
    """Times it has to be reached still; 0 and less: it has happened."""

    def is_about(self, site: str) -> bool:
        return site == self.site or (self.site[-1] == "*" and site.startswith(self.site[:-1]))

    def apply(self, site: str) -> None:
        self.left -= 1
        if self.left > 0:
            return
        if self.do == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.do == "sleep":
            time.sleep(self.seconds)
        else:
            raise FailpointReached(site)


def parse(text: str) -> list[Rule]:
    """Raises ValueError on what is no rule: a test that fails nothing must not pass for one."""
    rules = []
    for part in filter(None, text.split(",")):
        if (match := _RULE.fullmatch(part)) is None:
            raise ValueError(f"LOSSGUARD_FAILPOINT: {part!r} is not site:kill|raise|sleep")
        seconds, count = float(match["s"] or 1.0), int(match["n"] or 1)
        rules.append(Rule(match["site"], match["do"], seconds, count))
    return rules


RULES = parse(os.environ.get("LOSSGUARD_FAILPOINT", ""))
IS_SET = bool(RULES)
"""For places where even a call that does nothing would cost too much."""


def reach(site: str) -> None:
    """This place is reached: do what is asked for here, which is nothing. 50 ns."""
    for rule in RULES:
        if rule.is_about(site):
            rule.apply(site)
