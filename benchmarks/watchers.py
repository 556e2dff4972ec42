"""Ways to watch a training loop, each with a stopwatch: Lossguard, rivals, and what people write.

A rival that is not installed raises ``NotInstalled``. All are asked for the same as far as they can
tell it: the norm of every gradient and the size of the same modules' outputs, at every step.
"""

from __future__ import annotations

import importlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import lossguard
from lossguard.probes import measuring
from lossguard.probes.parameters import watched_modules


class NotInstalled(Exception):
    """What is to be measured is not here; says how to get it."""


class Watcher:
    """Nobody: the plain loop. ``own_s`` is the time spent in the watcher's own code so far [s]."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self.own_s = 0.0

    def begin_step(self, step: int) -> None: ...
    def after_backward(self, step: int) -> None: ...
    def close(self) -> None: ...

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same, on the stopwatch."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.own_s += time.perf_counter() - begun

        return timed


class Lossguard(Watcher):
    """``lossguard.attach``, as it comes."""

    policy = "observe"

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self._guard = lossguard.attach(model, optimizer, policy=self.policy, agent="existing")
        if not self._guard.run:
            raise RuntimeError("could not attach")

    @property
    def own_s(self) -> float:  # type: ignore[override]
        return self._guard.own_time_s

    def close(self) -> None:
        self._guard.close()


class Guarding(Lossguard):
    """Policy ``guard``: with the veto and snapshots."""

    policy = "guard"


class Everything(Guarding):
    """``guard``, and what else is sampled every 16th step measured at every one."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self._every = vars(measuring)["EVERY"]
        vars(measuring)["EVERY"] = 1
        super().__init__(model, optimizer)

    def close(self) -> None:
        super().close()
        vars(measuring)["EVERY"] = self._every


class Items(Watcher):
    """The loop that people write: ``p.grad.norm().item()`` for every parameter."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        super().__init__(model, optimizer)
        self._parameters = dict(model.named_parameters())
        self.after_backward = self.timed(self._look)  # type: ignore[method-assign]

    def _look(self, step: int) -> dict[str, float]:
        named = self._parameters.items()
        return {n: p.grad.norm().item() for n, p in named if p.grad is not None}


class Histograms(Watcher):
    """As ``wandb.watch(log_freq=1)`` does: a hook a gradient, a histogram of 64 bins, a norm."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        super().__init__(model, optimizer)
        self.seen: dict[str, Any] = {}
        self._handles = [
            p.register_hook(self.timed(lambda g, n=n: self._look(n, g)))
            for n, p in model.named_parameters()
        ]

    def _look(self, name: str, gradient: Tensor) -> None:
        flat = gradient.detach().reshape(-1).float()
        finite = flat[torch.isfinite(flat)]
        low, high = finite.min().item(), finite.max().item()
        counts = torch.histc(finite, bins=64, min=low, max=high)
        self.seen[name] = (counts.tolist(), low, high, flat.norm().item())

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


class ModuleMonitor(Watcher):
    """torch-module-monitor, for the same figures: gradient norms, RMS of the watched modules."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        super().__init__(model, optimizer)
        try:
            Monitor = importlib.import_module("torch_module_monitor").ModuleMonitor
        except ImportError as error:
            raise NotInstalled("pip install --no-deps torch-module-monitor h5py") from error
        watched = "|".join(name.replace(".", r"\.") + "$" for name, _ in watched_modules(model))
        others = f"^(?!({watched}))"
        self._monitor = Monitor(monitor_step_fn=lambda step: True, excluded_modules_regex=others)
        self._monitor.monitor_activations = self.timed(self._monitor.monitor_activations)
        self._monitor.set_module(model)
        self._monitor.add_activation_metric("rms", lambda x: x.square().mean().sqrt())
        self._monitor.add_gradient_metric("norm", lambda x: x.norm())
        self.begin_step = self.timed(self._monitor.begin_step)  # type: ignore[method-assign]
        self.after_backward = self.timed(self._look)  # type: ignore[method-assign]

    def _look(self, step: int) -> Any:
        self._monitor.monitor_gradients()
        self._monitor.end_step()
        return self._monitor.get_step_metrics()


_INSPECT = """
everything:
  enabled: True
  layers:
    layer_name_regex_pattern: .*
  LogTensorStats:
    enabled: True
    tensors: [activation, gradient]
    stats: [l2_norm]
    freq: 1
"""


class Inspect(Watcher):
    """nvdlfw-inspect, for the same figures: the L2 norm of gradients and of the watched outputs."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        super().__init__(model, optimizer)
        try:
            api: Any = importlib.import_module("nvdlfw_inspect.api")
            BaseLogger: Any = importlib.import_module("nvdlfw_inspect.logging").BaseLogger
        except ImportError as error:
            raise NotInstalled("pip install --no-deps nvdlfw-inspect pyyaml") from error

        class Logged(BaseLogger):  # type: ignore[misc]
            """In memory, as a run's tracker would."""

            def log_scalar(self, name: str, value: Any, iteration: int, **kwargs: Any) -> None:
                self.last = (name, float(value), iteration)

        self._api = api
        self._folder = tempfile.TemporaryDirectory(dir="/tmp")
        settings = Path(self._folder.name) / "inspect.yaml"
        settings.write_text(_INSPECT)
        api.initialize(str(settings), statistics_logger=Logged(), log_dir=self._folder.name)
        self._parameters = dict(model.named_parameters())
        self._handles = [
            module.register_forward_hook(self.timed(lambda m, a, y, n=n: self._stats(n, y)))
            for n, module in watched_modules(model)
        ]
        self.after_backward = self.timed(self._look)  # type: ignore[method-assign]

    def _stats(self, name: str, tensor: Tensor, kind: str = "activation") -> None:
        self._api.log_tensor_stats(
            layer_name=name, tensor_name=kind, tensor=tensor.detach(), skip_reduction=True
        )

    def _look(self, step: int) -> None:
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                self._stats(name, parameter.grad, "gradient")
        self._api.step()

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._api.end_debug()
        self._folder.cleanup()


class Pass(Watcher):
    """No watcher but a measure: the sum of as many numbers as there are in the gradients."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        super().__init__(model, optimizer)
        device = next(model.parameters()).device
        self._flat = torch.zeros(sum(p.numel() for p in model.parameters()), device=device)
        self.after_backward = self.timed(self._look)  # type: ignore[method-assign]

    def _look(self, step: int) -> None:
        self._flat.sum()


WATCHERS: dict[str, type[Watcher]] = {
    "plain, against itself": Watcher,
    "one pass over the gradients' memory": Pass,
    "lossguard, observe (default)": Lossguard,
    "lossguard, guard": Guarding,
    "lossguard, guard, all at every step": Everything,
    "`.item()` a parameter": Items,
    "hooks and histograms, as `wandb.watch`": Histograms,
    "torch-module-monitor": ModuleMonitor,
    "nvdlfw-inspect": Inspect,
}
SAME = ("torch-module-monitor", "nvdlfw-inspect")
"""Those that measure what Lossguard does: gradients and activations."""
