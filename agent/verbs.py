"""The arguments of each command that a person may give: which there are, and within which bounds.

The same bounds hold again in the training process; here they turn away what is wrong before it is
journaled. What is in no table is refused: a verb takes numbers and a few words, never a path.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias

from lossguard.probes.wire import Action

Bounds: TypeAlias = "tuple[float, float] | re.Pattern[str]"

_STEPS = (0.0, float(1 << 53))
_YES = (0.0, 1.0)
_WARM_UP = (0.0, 1e6)
_FACTOR = (1e-6, 1.0)
MOST_HOURS = 24.0 * 365
"""Of silence about a symptom."""
_INCIDENT = re.compile(r"[A-Za-z0-9._-]{1,160}\Z")
_SYMPTOM = re.compile(r"[a-z0-9_]{1,60}\Z")
_SENTENCE = re.compile(r"[^\x00-\x1f\x7f-\x9f]{0,200}\Z")

ARGUMENTS: dict[Action, dict[str, Bounds]] = {
    "skip": {},
    "rollback": {
        "onset": _STEPS,
        "lr": _FACTOR,
        "warmup_steps": _WARM_UP,
        "random": _YES,
        "replay": _YES,
        "deeper": (0.0, 1000.0),
        "hold_lr": _YES,
    },
    "lower_lr": {"factor": _FACTOR, "warmup_steps": _WARM_UP},
    "reset_moments": {},
    "set_clip": {"max_norm": (1e-12, 1e12)},
    "set_loss_scale": {"scale": (1e-6, float(1 << 40))},
    "checkpoint": {"keep": re.compile(r"best\Z"), "evaluated": _STEPS},
    "dump_stacks": {},
    "stop": {"checkpoint": _YES, "reason": _SENTENCE},
    "ack": {"incident": _INCIDENT, "undo": _YES},
    "mute": {
        "incident": _INCIDENT,
        "symptom": _SYMPTOM,
        "hours": (0.0, MOST_HOURS),
        "undo": _YES,
    },
}


def wrong_with_arguments(action: Action, args: Mapping[str, float | int | str]) -> str:
    """Why these arguments are not taken, or empty."""
    known = ARGUMENTS[action]
    for name, value in args.items():
        bounds = known.get(name)
        if bounds is None:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            return f"{action} takes no argument {name[:40]!r}; {takes}"
        if isinstance(bounds, re.Pattern):
            if not bounds.match(str(value)):
                return f"{action}: {name} cannot be {str(value)[:80]!r}"
        elif isinstance(value, str) or not bounds[0] <= value <= bounds[1]:
            return (
                f"{action}: {name} must be a number between {bounds[0]:g} and {bounds[1]:g}, "
                f"got {str(value)[:80]!r}"
            )
    return ""
