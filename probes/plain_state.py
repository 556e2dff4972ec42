"""Training state as a tree of plain values and a row of byte blobs, and back: without pickle.

What can be written so: None, bool, int, float, complex, str, bytes, list, tuple, set, deque,
dict with its common kin, NumPy arrays and scalars, torch tensors. Nothing that runs code can be
read back, whatever a file holds.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Blob = memoryview
Tree = Any
"""None, bool, 64-bit int, float, str, bytes, or a list that begins with the name of a kind."""

_SMALL_INT = 2**63
_LIST_KINDS: dict[type, str] = {list: "list", tuple: "tuple", set: "set", torch.Size: "tuple"}
_DICT_KINDS: dict[type, str] = {dict: "dict", OrderedDict: "dict", Counter: "counter"}


class NotPlain(ValueError):
    """A value that cannot be written: where it is, and what it is."""

    def __init__(self, path: str, value: object) -> None:
        super().__init__(f"{path or 'the state'} is a {type(value).__qualname__}")


class NotReadable(ValueError):
    """A tree that no ``take_apart`` has made."""


def take_apart(value: Any, path: str = "") -> tuple[Tree, list[Blob]]:
    """``value`` as a tree, and the bytes of its tensors and arrays, which are not copied.

    Tensors must be in host memory. Raises NotPlain.
    """
    blobs: list[Blob] = []
    return _apart(value, path, blobs), blobs


def put_together(tree: Tree, blobs: Sequence[bytes | bytearray | memoryview]) -> Any:
    """What ``take_apart`` was given. Tensors share the blobs' memory. Raises NotReadable."""
    try:
        return _together(tree, blobs)
    except NotReadable:
        raise
    except Exception as error:
        raise NotReadable(f"{type(error).__name__}: {error}") from error


def _apart(value: Any, path: str, blobs: list[Blob]) -> Tree:
    kind = type(value)
    if value is None or kind in (bool, float, str, bytes):
        return value
    if kind is int:
        return value if -_SMALL_INT <= value < _SMALL_INT else ["int", str(value)]
    if kind is complex:
        return ["complex", value.real, value.imag]
    if isinstance(value, Tensor):
        return _tensor_apart(value, path, blobs)
    if isinstance(value, (np.ndarray, np.generic)):
        return _array_apart(np.asarray(value), path, blobs, scalar=isinstance(value, np.generic))
    if kind in _LIST_KINDS:
        items = [_apart(item, f"{path}[{i}]", blobs) for i, item in enumerate(value)]
        return [_LIST_KINDS[kind], items]
    if kind is deque:
        return ["deque", value.maxlen, [_apart(v, f"{path}[]", blobs) for v in value]]
    if kind in _DICT_KINDS:
        pairs = [
            [_apart(key, path, blobs), _apart(item, f"{path}.{key}" if path else str(key), blobs)]
            for key, item in value.items()
        ]
        return [_DICT_KINDS[kind], pairs]
    raise NotPlain(path, value)


def _tensor_apart(tensor: Tensor, path: str, blobs: list[Blob]) -> Tree:
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise NotPlain(path, tensor)
    host = tensor.detach().contiguous()
    if host.is_conj() or host.is_neg():
        host = host.resolve_conj().resolve_neg()
    blobs.append(host.reshape(-1).view(torch.uint8).numpy().data)
    return ["tensor", str(host.dtype).removeprefix("torch."), list(host.shape), len(blobs) - 1]


def _array_apart(array: np.ndarray[Any, Any], path: str, blobs: list[Blob], scalar: bool) -> Tree:
    if array.dtype.hasobject or array.dtype.names:
        raise NotPlain(path, array)
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    blobs.append(flat.data)
    kind = "scalar" if scalar else "array"
    return [kind, array.dtype.str, list(array.shape), len(blobs) - 1]


def _together(tree: Tree, blobs: Sequence[bytes | bytearray | memoryview]) -> Any:
    if not isinstance(tree, list):
        return tree
    kind, *rest = tree
    build = _BUILDERS.get(kind) if isinstance(kind, str) else None
    if build is None:
        raise NotReadable(f"{kind!r} is no kind of value")
    return build(rest, blobs)


def _many(items: Any, blobs: Any) -> list[Any]:
    return [_together(item, blobs) for item in items]


def _dict(rest: Any, blobs: Any) -> dict[Any, Any]:
    return {_together(key, blobs): _together(item, blobs) for key, item in rest[0]}


def _tensor(rest: Any, blobs: Any) -> Tensor:
    name, shape, place = rest
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise NotReadable(f"{name!r} is no dtype")
    blob = blobs[place]
    if math.prod(shape) * dtype.itemsize != len(blob):
        raise NotReadable(f"a tensor {shape} of {name} in {len(blob)} bytes")
    if not len(blob):
        return torch.empty(shape, dtype=dtype)
    # A copy where the memory cannot be written to: a tensor of it could not be trained.
    writable = memoryview(blob)
    if writable.readonly:
        writable = memoryview(bytearray(blob))
    return torch.frombuffer(writable, dtype=torch.uint8).view(dtype).reshape(shape)


def _array(rest: Any, blobs: Any) -> Any:
    name, shape, place = rest
    dtype = np.dtype(name)
    if dtype.hasobject:
        raise NotReadable(f"an array of {name}")
    return np.frombuffer(bytes(blobs[place]), dtype).reshape(shape).copy()


_BUILDERS: dict[str, Callable[[Any, Any], Any]] = {
    "int": lambda rest, blobs: int(rest[0]),
    "complex": lambda rest, blobs: complex(rest[0], rest[1]),
    "list": lambda rest, blobs: _many(rest[0], blobs),
    "tuple": lambda rest, blobs: tuple(_many(rest[0], blobs)),
    "set": lambda rest, blobs: set(_many(rest[0], blobs)),
    "deque": lambda rest, blobs: deque(_many(rest[1], blobs), maxlen=rest[0]),
    "dict": _dict,
    "counter": lambda rest, blobs: Counter(_dict(rest, blobs)),
    "tensor": _tensor,
    "array": _array,
    "scalar": lambda rest, blobs: _array(rest, blobs)[()],
}
