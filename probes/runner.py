"""``lossguard run``: a training script as it is, with a probe that attaches by itself."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import logging
import runpy
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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


def watch_by_itself(policy: str, name: str | None) -> None:
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


def _attach_at_first_step(policy: str, name: str | None) -> None:
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    from lossguard.probes import patches
    from lossguard.probes.discover import model_of
    from lossguard.probes.guard import attach
    from lossguard.probes.schedules import schedulers_of

    first = _FirstLoss()
    patches.listen(first)
    done = False

    def before_step(optimizer: Any, args: Any, kwargs: Any) -> None:
        nonlocal done
        if done:
            return
        done = True
        try:
            patches.stop_listening(first)
            # The instance hooks that `attach` registers now still run for this very step.
            guard = attach(
                model_of(optimizer),
                optimizer,
                scheduler=schedulers_of(optimizer),
                scaler=first.scaler,
                policy=policy,
                name=name,
            )
            if first.tensors is not None:
                guard.replay_backward(first.tensors, gradients_were_clipped=first.clipped)
        except Exception as error:
            log.error("lossguard could not attach (%s); training goes on, unwatched", error)
        finally:
            first.tensors = None

    register_optimizer_step_pre_hook(before_step)


class _FirstLoss:
    """Remembers the backward that came before the first step."""

    def __init__(self) -> None:
        self.tensors: Any = None
        self.scaler: Any = None
        self.clipped = False
        self._unscaled: tuple[Any, Any] = (None, None)

    def on_backward(self, tensors: Any) -> None:
        scaled, loss = self._unscaled
        self.tensors = loss if tensors is scaled and scaled is not None else tensors

    def on_scale(self, scaler: Any, loss: Any, scaled: Any) -> None:
        self.scaler = scaler
        self._unscaled = (scaled, loss)

    def before_clip(self, parameters: Any) -> None:
        self.clipped = True

    def after_scaler_step(self, scaler: Any, optimizer: Any) -> None: ...


def run_script(script: str, arguments: Sequence[str]) -> None:
    """``python script arguments`` in this process: ``sys.argv``, ``sys.path[0]``, ``__main__``."""
    path = Path(script)
    sys.argv = [script, *arguments]
    sys.path[0] = str(path.resolve().parent)
    with path.open("rb") as file:
        source = file.read()
    code = compile(source, script, "exec", dont_inherit=True)
    main = types.ModuleType("__main__")
    main.__dict__.update(
        __file__=script, __builtins__=__builtins__, __spec__=None, __cached__=None, __doc__=None
    )
    sys.modules["__main__"] = main
    exec(code, main.__dict__)


def run_module(module: str, arguments: Sequence[str]) -> None:
    """``python -m module arguments`` in this process."""
    sys.argv = [module, *arguments]
    sys.path[0] = str(Path.cwd())
    runpy.run_module(module, run_name="__main__", alter_sys=True)
