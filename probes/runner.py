"""``lossguard run``: a training script as it is, with a probe that attaches by itself."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import logging
import runpy
import sys
import types
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lossguard.policy_choice import ChosenPolicy

log = logging.getLogger("lossguard")


class _WhenTorchIsImported(importlib.abc.MetaPathFinder):
    """Runs ``then`` once torch's import has finished, in whatever way the script imports it.

    The script may set environment variables before it imports torch, so we must not be first.
    """

    def __init__(self, then: Any) -> None:
        self._then = then

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("torch")
        if spec is not None and spec.loader is not None:
            run_module = spec.loader.exec_module

            def exec_module(module: types.ModuleType) -> None:
                run_module(module)
                self._then()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def watch_by_itself(policy: ChosenPolicy, name: str | None) -> None:
    """Attach to the first optimizer that steps, once the script has imported torch."""

    def then() -> None:
        try:
            _attach_at_first_step(policy, name)
        except Exception as error:
            log.error("lossguard could not watch (%s); training goes on", error)

    if "torch" in sys.modules:
        then()
    else:
        sys.meta_path.insert(0, _WhenTorchIsImported(then))


def _attach_at_first_step(policy: ChosenPolicy, name: str | None) -> None:
    import torch
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    from lossguard.probes import patches
    from lossguard.probes.discover import model_of
    from lossguard.probes.first_step import FirstStep
    from lossguard.probes.guard import attach
    from lossguard.probes.schedules import schedulers_of

    first = FirstStep()
    patches.listen(first)
    watched: Any = None
    guard: Any = None

    def before_step(optimizer: Any, args: Any, kwargs: Any) -> None:
        nonlocal watched, guard
        if watched is not None:
            if optimizer is not watched() and guard is not None:
                guard, told = None, guard
                told.only_observe("another optimizer steps in this process, and is not watched")
            return
        watched = weakref.ref(optimizer)
        try:
            # The instance hooks that `attach` registers now still run for this very step.
            guard = attach(
                model_of(optimizer),
                optimizer,
                scheduler=schedulers_of(optimizer),
                scaler=first.scaler,
                policy=policy,
                name=name,
            )
            guard.take_over(first.tap, gradients_were_clipped=first.clipped)
        except Exception as error:
            log.error("lossguard could not attach (%s); training goes on, unwatched", error)
        finally:  # not before: torch is changed once, and back at the end
            patches.stop_listening(first)

    # torch's own way to say torch.compiler.disable without importing the compiler yet.
    outside = getattr(torch, "_disable_dynamo", torch.compiler.disable)
    register_optimizer_step_pre_hook(outside(before_step))


def run_script(script: str, arguments: Sequence[str]) -> None:
    """``python script arguments`` in this process: ``sys.argv``, ``sys.path[0]``, ``__main__``."""
    path = Path(script).absolute()
    sys.argv = [script, *arguments]
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = str(path.resolve().parent)
    try:
        code = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
    except SyntaxError as error:  # Python shows it without a traceback: no frame has run
        sys.excepthook(type(error), error.with_traceback(None), None)
        sys.exit(1)
    main = types.ModuleType("__main__")
    main.__dict__.update(
        __file__=str(path), __builtins__=__builtins__, __spec__=None, __cached__=None, __doc__=None
    )
    sys.modules["__main__"] = main
    exec(code, main.__dict__)


def run_module(module: str, arguments: Sequence[str]) -> None:
    """``python -m module arguments`` in this process."""
    sys.argv = [module, *arguments]
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = str(Path.cwd())
    runpy.run_module(module, run_name="__main__", alter_sys=True)
