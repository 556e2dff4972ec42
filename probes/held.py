"""What the last forwards were given, for as long as somebody may want to repeat one of them."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

_STRONG_BYTES = 4 << 20
"""Of a step's inputs so much is kept alive; larger ones only for as long as the script does."""
_MOST_FORWARDS = 8
_DEEPEST = 4
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)


class Gone(Exception):
    """The inputs of the forward are no more, have been written to, or are of no kind we know."""


class _Held(NamedTuple):
    tensor: Tensor | weakref.ref[Tensor]
    version: int


class _Unknown:
    pass


class Forward(NamedTuple):
    """One call of the model. ``autocast`` is (device type, whether it was on, its type)."""

    args: Any
    kwargs: Any
    autocast: tuple[str, bool, torch.dtype]

    def inputs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """As they were given. Raises Gone where they are not what they were."""
        return _given(self.args), _given(self.kwargs)


class HeldForwards:
    """The training forwards since the last step, at most 8, the newest.

    At most 4 MiB of tensors are kept alive by it, till the step that follows has been judged; of
    larger ones it only knows where they are. About a microsecond a tensor.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device.type
        self._forwards: list[Forward] = []
        self._left = _STRONG_BYTES

    def hold(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A forward begins with these arguments."""
        if len(self._forwards) >= _MOST_FORWARDS:
            del self._forwards[0]
        kind = self._device
        enabled = torch.is_autocast_enabled(kind)
        autocast = (kind, enabled, torch.get_autocast_dtype(kind) if enabled else torch.float32)
        held = tuple([self._held(value) for value in args])
        named = {key: self._held(value) for key, value in kwargs.items()} if kwargs else {}
        self._forwards.append(Forward(held, named, autocast))

    def take(self) -> list[Forward]:
        """Those since the last call, the newest last."""
        forwards, self._forwards, self._left = self._forwards, [], _STRONG_BYTES
        return forwards

    def _held(self, value: Any, depth: int = _DEEPEST) -> Any:
        if type(value) is Tensor:
            version = -1 if value.is_inference() else value._version
            if value.nbytes > self._left:
                return _Held(weakref.ref(value), version)
            self._left -= value.nbytes
            return _Held(value.detach() if value.requires_grad else value, version)
        if isinstance(value, _PLAIN):
            return value
        if depth and type(value) in (list, tuple):
            return type(value)(self._held(item, depth - 1) for item in value)
        if depth and type(value) is dict:
            return {key: self._held(item, depth - 1) for key, item in value.items()}
        return _Unknown()


def _given(held: Any) -> Any:
    if type(held) is _Held:
        tensor = held.tensor() if isinstance(held.tensor, weakref.ref) else held.tensor
        if tensor is None or (held.version >= 0 and tensor._version != held.version):
            raise Gone
        return tensor
    if isinstance(held, _Unknown):
        raise Gone
    if type(held) in (list, tuple):
        return type(held)(_given(item) for item in held)
    if type(held) is dict:
        return {key: _given(item) for key, item in held.items()}
    return held
