"""How a process ends: ``os._exit`` leaves no time for a goodbye, unless it is heard."""

from __future__ import annotations

import os
import sys
import traceback
import weakref
from typing import Any, Protocol

_MOST_CHARACTERS = 8000

exit_code_of_script: int = 0
"""What the script under ``lossguard run`` has asked to exit with, once it has; else 0."""


class Resident(Protocol):
    """Somebody who wants to know."""

    def before_leaving(self, code: int) -> None:
        """Must not raise, and must not take long."""


_residents: list[weakref.ref[Resident]] = []
_original: Any = os._exit
_in_place = False


def tell(resident: Resident) -> None:
    """Call ``resident.before_leaving`` before ``os._exit``, for as long as somebody keeps it."""
    global _original, _in_place
    if not _in_place:
        _original, _in_place = os._exit, True
        os._exit = _leave
    _residents.append(weakref.ref(resident, _forget))


def tell_no_more(resident: Resident) -> None:
    """With the last one ``os._exit`` is as it was. Idempotent."""
    for reference in tuple(_residents):
        if reference() is resident:
            _forget(reference)


def _forget(reference: weakref.ref[Resident]) -> None:
    global _in_place
    if reference in _residents:
        _residents.remove(reference)
        if not _residents and os._exit is _leave:  # else somebody wrapped ours: it stays, inert
            os._exit, _in_place = _original, False


def _leave(status: int) -> Any:
    for reference in tuple(_residents):
        resident = reference()
        if resident is not None:
            try:
                resident.before_leaving(status)
            except Exception:  # nobody will read it any more
                continue
    return _original(status)


def error_of_script() -> str:
    """What the script is ending with: its traceback, or an exit code other than 0; else empty."""
    error = getattr(sys, "last_value", None)
    if isinstance(error, BaseException):
        try:
            return "".join(traceback.format_exception(error))[-_MOST_CHARACTERS:]
        except Exception:  # an error that cannot be shown
            return type(error).__name__
    return f"exit code {exit_code_of_script}" if exit_code_of_script else ""


def code_of(end: SystemExit) -> int:
    """What a process exits with that ``end`` leaves: 0 is success."""
    if end.code is None:
        return 0
    return end.code if isinstance(end.code, int) else 1
