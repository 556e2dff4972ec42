"""NCCL by itself: a communicator that torch knows nothing of.

torch's own group of this kind has a watchdog that ends the process when a collective is late or a
peer is gone. A vote that is missing a rank is to be given up, and nothing more.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

ID_BYTES = 128
_DONE, _IN_PROGRESS = 0, 7
_FLOAT64, _SUM = 8, 0
_MAGIC, _VERSION = 0xCAFEBEEF, 21800
_UNSET = -(2**31)


class _Id(ctypes.Structure):
    """``ncclUniqueId``, which is handed over by value."""

    _fields_ = (("bytes", ctypes.c_char * ID_BYTES),)


class _Config(ctypes.Structure):
    """``ncclConfig_t`` as of 2.18; a newer NCCL goes by ``size`` and ``version``."""

    _fields_ = (
        ("size", ctypes.c_size_t), ("magic", ctypes.c_uint), ("version", ctypes.c_uint),
        ("blocking", ctypes.c_int), ("cga_cluster_size", ctypes.c_int),
        ("min_ctas", ctypes.c_int), ("max_ctas", ctypes.c_int),
        ("net_name", ctypes.c_char_p), ("split_share", ctypes.c_int),
    )  # fmt: skip


def load() -> Any:
    """The library that torch has loaded. Raises OSError where there is none that can be shared,
    AttributeError where it is older than 2.14."""
    library = ctypes.CDLL("libnccl.so.2")
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    library.ncclGetErrorString.restype = ctypes.c_char_p
    library.ncclCommInitRankConfig.argtypes = (
        ctypes.POINTER(pointer), integer, _Id, integer, ctypes.POINTER(_Config),
    )  # fmt: skip
    library.ncclAllReduce.argtypes = (
        pointer, pointer, ctypes.c_size_t, integer, integer, pointer, pointer,
    )  # fmt: skip
    library.ncclCommGetAsyncError.argtypes = (pointer, ctypes.POINTER(integer))
    library.ncclCommAbort.argtypes = (pointer,)
    return library


def unique_id(library: Any) -> bytes:
    """Of a new communicator, for all of its ranks."""
    made = _Id()
    _require(library, library.ncclGetUniqueId(ctypes.byref(made)))
    return bytes(made)


class Communicator:
    """One block of threads on each device, and as little of its memory: for a few bytes a step.

    Making one waits for all ranks. No method is to be called after ``abort``.
    """

    def __init__(self, library: Any, unique: bytes, rank: int, size: int) -> None:
        self._library = library
        self._handle = ctypes.c_void_p()
        config = _Config(
            size=ctypes.sizeof(_Config), magic=_MAGIC, version=_VERSION, blocking=1,
            cga_cluster_size=_UNSET, min_ctas=1, max_ctas=1, net_name=None, split_share=_UNSET,
        )  # fmt: skip
        made = library.ncclCommInitRankConfig(
            ctypes.byref(self._handle), size, _Id.from_buffer_copy(unique), rank,
            ctypes.byref(config),
        )  # fmt: skip
        _require(library, made)

    def add_up(self, given: Tensor, sums: Tensor) -> None:
        """float64, contiguous, of one shape; queued on the current stream. RuntimeError where NCCL
        refuses."""
        stream = torch.cuda.current_stream(given.device).cuda_stream
        queued = self._library.ncclAllReduce(
            given.data_ptr(), sums.data_ptr(), given.numel(), _FLOAT64, _SUM, self._handle, stream
        )
        _require(self._library, queued)

    def has_failed(self) -> bool:
        """Whether NCCL knows that a peer is gone. From any thread; waits for nothing."""
        code = ctypes.c_int()
        self._library.ncclCommGetAsyncError(self._handle, ctypes.byref(code))
        return code.value not in (_DONE, _IN_PROGRESS)

    def abort(self) -> None:
        """Ends whatever is queued and waits for a peer. From any thread."""
        self._library.ncclCommAbort(self._handle)


def _require(library: Any, code: int) -> None:
    if code != _DONE:
        raise RuntimeError(f"NCCL: {library.ncclGetErrorString(code).decode()} ({code})")
