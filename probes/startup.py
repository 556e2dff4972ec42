"""``LOSSGUARD=1 python script.py``: what runs before the script, in every Python of such a tree.

``lossguard-startup.pth`` in site-packages calls ``arm``, and only where LOSSGUARD is set. Nothing
but the standard library is imported until the process has imported torch by itself; nothing is
watched until an optimizer steps in it; and no failure of ours reaches the interpreter.

That file runs a literal by ``exec`` because it has one line, ``try`` is a statement, and Python
would print an import that fails there into the stderr of every process. Nothing from outside gets
into it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_OFF = ("", "0", "off", "false", "no")
_ON = ("1", "on", "true", "yes")

_waiting: TorchImport | None = None


def arm() -> None:
    """Watch this process as LOSSGUARD says, should it train. Never raises.

    ``1`` is ``lossguard run``, ``guard`` is ``lossguard run --guard``, and anything else what
    ``--policy`` takes; ``0`` is off.
    """
    with suppress(Exception):
        if os.environ.get("LOSSGUARD", "").strip().lower() not in _OFF:
            when_torch_is_imported(_watch_by_environment)


def _watch_by_environment() -> None:
    from lossguard.policy_choice import choose_policy
    from lossguard.probes.runner import narrate
    from lossguard.probes.self_attaching import watch_what_trains

    setting = os.environ.get("LOSSGUARD", "").strip()
    word = setting.lower()
    if word in _OFF:  # the script has thought better of it
        return
    asked = None if word in (*_ON, "guard") else setting
    watch_what_trains(lambda: choose_policy(asked, acts=word == "guard"), name=None, begins=narrate)


def when_torch_is_imported(then: Callable[[], None]) -> None:
    """Call ``then`` once torch is there, in whatever way the script imports it; now if it is.

    The script may set environment variables before it imports torch, so we must not be first.
    A later call takes the place of one that still waits. What ``then`` raises is dropped.
    """
    global _waiting
    if "torch" in sys.modules:
        forget()
        _quietly(then)
    elif _waiting is not None:
        _waiting.then = then
    else:
        _waiting = TorchImport(then)
        sys.meta_path.insert(0, _waiting)


def forget() -> None:
    """Wait no more. Idempotent."""
    global _waiting
    finder, _waiting = _waiting, None
    if finder in sys.meta_path:
        sys.meta_path.remove(finder)


def _quietly(then: Callable[[], None]) -> None:
    try:
        then()
    except Exception as error:
        import logging

        what = f"{type(error).__name__}: {error}"
        logging.getLogger("lossguard").error("could not watch (%s); training goes on", what)


class TorchImport:
    """Stands first among the finders until torch's import has succeeded.

    Looking for torch without importing it, and an import that fails, change nothing.
    """

    def __init__(self, then: Callable[[], None]) -> None:
        self.then = then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Whatever the finders behind this one find, with a loader that tells us."""
        if fullname != "torch" or self not in sys.meta_path:
            return None
        spec = None
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            find: Any = getattr(finder, "find_spec", None)
            spec = find(fullname, path, target) if find is not None else None
            if spec is not None:
                break
        if spec is not None:
            with suppress(Exception):
                self._tell_when_loaded(spec.loader)
        return spec

    def _tell_when_loaded(self, loader: Any) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            vars(loader).pop("exec_module", None)
            execute(module)
            self._loaded()

        # In the traceback of an import that fails Python leaves out frames of this name.
        exec_module.__code__ = exec_module.__code__.replace(
            co_filename="<frozen importlib._bootstrap>", co_name="_call_with_frames_removed"
        )
        loader.exec_module = exec_module

    def _loaded(self) -> None:
        if self is _waiting:
            forget()
            _quietly(self.then)
