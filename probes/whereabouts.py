"""Where a thread of the training is: read off its stack, for the agent to judge a standstill by."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Protocol

_DEPTH = 400
_MOST_CHARACTERS = 60_000

_PLACES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("debugger", ("/pdb.py", "/bdb.py", "/ipdb/", "/pudb/", "/debugpy/", "/pydevd"), ()),
    (
        "checkpoint",
        ("torch/serialization.py", "torch/distributed/checkpoint/", "/safetensors/"),
        ("save", "_save", "async_save", "save_file", "_legacy_save"),
    ),
    ("checkpoint", ("",), ("save_checkpoint", "save_pretrained", "save_model", "save_state")),
    ("compile", ("torch/_dynamo/convert_frame.py", "torch/_inductor/compile_fx.py"), ()),
    ("compile", ("torch/_inductor/codecache.py", "torch/_inductor/async_compile.py"), ()),
    ("compile", ("triton/compiler/", "torch/utils/cpp_extension.py"), ()),
    ("collective", ("torch/distributed/distributed_c10d.py",), ()),
    ("data", ("torch/utils/data/",), ()),
    ("backward", ("torch/autograd/graph.py", "torch/autograd/__init__.py"), ()),
    ("optimizer", ("torch/optim/",), ()),
    ("forward", ("torch/nn/modules/module.py",), ("_call_impl", "_wrapped_call_impl")),
)
"""A phase, the files that mean it, the functions in them (none: any). What stands first wins."""

_LIBRARIES = (
    os.path.dirname(os.__file__) + os.sep,
    os.sep + "site-packages" + os.sep,
    os.sep + "lossguard" + os.sep,
    "<frozen ",
)


@dataclass(frozen=True, slots=True)
class Place:
    """Which phase a stack is in, and the lines that say so."""

    phase: str
    """One of ``_PLACES``, or ``script``."""
    at: str
    """``train.py:41 in step``: the innermost line of the user's, and below it the innermost."""


def place_of(frame: FrameType | None) -> Place:
    """What the stack of a running thread says. No lock, no allocation of note: microseconds."""
    phase, rank, innermost, own = "script", len(_PLACES), "", ""
    for file, function, line in _frames(frame):
        if not innermost:
            innermost = _line(file, function, line)
        if not own and not any(part in file for part in _LIBRARIES):
            own = _line(file, function, line)
        for number, (name, files, functions) in enumerate(_PLACES[:rank]):
            if any(part in file for part in files) and (not functions or function in functions):
                phase, rank = name, number
                break
    if not own or own == innermost:
        return Place(phase, innermost)
    return Place(phase, f"{own}, in {innermost}")


def all_stacks() -> str:
    """The stacks of all threads of this process, newest call last. For a log, not for a loop."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in sys._current_frames().items():
        parts.append(f"Thread {names.get(ident, '?')} ({ident})\n")
        parts.extend(traceback.format_stack(frame))
    return "".join(parts)[-_MOST_CHARACTERS:]


class Moving(Protocol):
    """What knows whether the loop does anything (``phases.Phases``)."""

    moves: int

    @property
    def evaluates(self) -> bool: ...


def standing(moving: Moving, thread: int) -> tuple[int, Place]:
    """How much the loop has done so far, and where its thread is now. For another thread."""
    place = place_of(sys._current_frames().get(thread))
    if moving.evaluates and place.phase in ("script", "forward", "data"):
        place = Place("eval", place.at)
    return moving.moves, place


def _frames(frame: FrameType | None) -> Iterator[tuple[str, str, int]]:
    for _ in range(_DEPTH):
        if frame is None:
            return
        code = frame.f_code
        yield code.co_filename, code.co_name, frame.f_lineno
        frame = frame.f_back


def _line(file: str, function: str, line: int) -> str:
    """The file by its last two names: enough to find it."""
    short = os.sep.join(file.rsplit(os.sep, 2)[-2:])
    return f"{short}:{line} in {function}"
