"""The traceback of a script that failed, as it would be alone."""

from __future__ import annotations

import os
import sys
from types import TracebackType

_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_LAUNCHER = _OURS + "runner.py"


def show_without_ours() -> None:
    """From now on ``sys.excepthook`` is given tracebacks without our frames."""
    show = sys.excepthook

    def excepthook(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        try:
            _clean(error, set())
            trace = error.__traceback__
        except Exception:  # then with all its frames
            trace = trace or error.__traceback__
        show(kind, error, trace)

    sys.excepthook = excepthook


def _clean(error: BaseException | None, seen: set[int]) -> None:
    """``error`` and all it was raised from."""
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error.__traceback__ = without_ours(error.__traceback__)
        _clean(error.__cause__, seen)
        error = error.__context__


def without_ours(trace: TracebackType | None) -> TracebackType | None:
    """Without the frames that led to the script, and those where torch came through us.

    What we raise ourselves keeps its frames: an argument of ``attach`` that makes no sense.
    """
    frames: list[TracebackType] = []
    while trace is not None:
        frames.append(trace)
        trace = trace.tb_next
    files = [frame.tb_frame.f_code.co_filename for frame in frames]
    begin = 1 + max((i for i, file in enumerate(files) if file == _LAUNCHER), default=-1)
    end = len(files)
    while end > begin and files[end - 1].startswith(_OURS):
        end -= 1
    kept = [
        frame
        for i, frame in enumerate(frames)
        if i >= begin and (i >= end or not files[i].startswith(_OURS))
    ]
    rest: TracebackType | None = None
    for frame in reversed(kept):
        rest = TracebackType(rest, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return rest
