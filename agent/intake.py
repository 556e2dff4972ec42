"""What a probe may say: ids and numbers within bounds, so that nothing further in has to ask.

A count beyond 2^53 fits neither a chart nor the database, and one NaN among the times breaks an
order; a probe says neither, so whoever does is not one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from lossguard.probes import wire

_LARGEST = 1 << 53
_ID = re.compile(r"(?!\.+\Z)[A-Za-z0-9._-]{1,120}\Z")
"""No path, and none of the two names of folders that every folder has."""
COMMAND_ID = re.compile(r"[A-Za-z0-9._-]{1,80}\Z")
"""What probes take for a command's id."""
_MAX_ARGS = 16
MOST_RANKS = 1 << 16
"""Of one run: an agent keeps something of each."""
_MAX_TEXT = 500


def check(message: wire.FromProbe, num_frames: int) -> None:
    """Raises ValueError on a message that no probe sends."""
    wanted = 2 if isinstance(message, wire.Step) else 1
    if num_frames != wanted:
        raise ValueError(f"a {type(message).__name__} of {num_frames} frames")
    if not _ID.match(message.run):
        raise ValueError(f"not a run's id: {message.run[:80]!r}")
    if message.rank >= MOST_RANKS:
        raise ValueError(f"rank is {message.rank}")
    if isinstance(message, wire.Hello) and not 1 <= message.world_size <= MOST_RANKS:
        raise ValueError(f"world_size is {message.world_size}")
    for name in message.__struct_fields__:
        value = getattr(message, name)
        if isinstance(value, int):
            if not -1 <= value < _LARGEST:
                raise ValueError(f"{name} is {value}")
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} is {value}")


def wrong_with_command(command: str, args: dict[str, float | int | str]) -> str:
    """Why no loop would take this command; empty where nothing is wrong."""
    if not COMMAND_ID.match(command):
        return f"not a command id: {command[:80]!r}; wanted are 1 to 80 of A-Z a-z 0-9 . _ -"
    if len(args) > _MAX_ARGS:
        return f"{len(args)} arguments; at most {_MAX_ARGS} are taken"
    for key, value in args.items():
        if len(key) > _MAX_TEXT or (isinstance(value, str) and len(value) > _MAX_TEXT):
            return f"argument {key[:40]!r} is longer than {_MAX_TEXT} characters"
        if isinstance(value, int) and not -_LARGEST < value < _LARGEST:
            return f"argument {key!r} is too large: {value}"
    return ""


def shortened(text: str, limit: int = _MAX_TEXT) -> str:
    """The text, cut where it is longer than anybody reads."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def words_of(result: Mapping[str, object]) -> str:
    """What a loop answered, in one line."""
    return shortened(", ".join(f"{key} {value}" for key, value in result.items()))
