"""The scalars of one ``Event`` message of TensorBoard.

Field numbers as in tensorflow ``core/util/event.proto``, ``core/framework/summary.proto`` and
``core/framework/tensor.proto``.
"""

from __future__ import annotations

import struct

import numpy as np

from lossguard.agent.logs.protobuf import BYTES, FIXED32, FIXED64, VARINT, fields, signed, varint

_FLOAT, _DOUBLE = struct.Struct("<f"), struct.Struct("<d")
_WALL_TIME, _STEP, _SUMMARY = 1, 2, 5
_VALUE = 1
_TAG, _SIMPLE_VALUE, _TENSOR = 1, 2, 8
_DTYPE, _CONTENT, _FLOATS, _DOUBLES = 1, 4, 5, 6
_VARINTS = (7, 10, 16, 17)
"""int_val, int64_val, uint32_val, uint64_val"""
_HALVES = 13
_FORMATS = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2", 22: "<u4", 23: "<u8"}
_BFLOAT16, _HALF = 14, 19


def scalars_of(event: bytes) -> tuple[float, int, list[tuple[str, float]]]:
    """(wall time [s], step, [(tag, value)]) of an event.

    Raises ValueError where the message is malformed.
    """
    if (usual := _usual(event)) is not None:
        return usual
    time_s, step = 0.0, 0
    scalars: list[tuple[str, float]] = []
    for number, wire, integer, data in fields(event):
        if number == _SUMMARY and wire == BYTES:
            for of, kind, _, value in fields(data):
                if of == _VALUE and kind == BYTES:
                    scalar = _scalar(value)
                    if scalar is not None:
                        scalars.append(scalar)
        elif number == _WALL_TIME and wire == FIXED64:
            (time_s,) = _DOUBLE.unpack(data)
        elif number == _STEP and wire == VARINT:
            step = signed(integer)
    return time_s, step, scalars


def _usual(event: bytes) -> tuple[float, int, list[tuple[str, float]]] | None:
    """The same for what nearly every event is, one simple value and nothing else; else None.

    Six times as fast: time (9), step (0x10), summary (0x2a) of one value (0x0a) of tag (0x0a) and
    float (0x15), with every length in one byte.
    """
    size = len(event)
    if size < 20 or event[0] != 0x09:
        return None
    at, step = 9, 0
    if event[9] == 0x10:
        step, at = varint(event, 10)
    rest = size - at
    if not 11 < rest < 130 or event[at] != 0x2A or event[at + 1] != rest - 2:
        return None
    if event[at + 2] != 0x0A or event[at + 3] != rest - 4 or event[at + 4] != 0x0A:
        return None
    begin = at + 6
    end = begin + event[at + 5]
    if end + 5 != size or event[end] != 0x15:
        return None
    (time_s,) = _DOUBLE.unpack_from(event, 1)
    (value,) = _FLOAT.unpack_from(event, end + 1)
    return time_s, signed(step), [(event[begin:end].decode(errors="replace"), value)]


def _scalar(message: bytes) -> tuple[str, float] | None:
    tag, value = "", None
    for number, wire, _, data in fields(message):
        if number == _TAG and wire == BYTES:
            tag = data.decode(errors="replace")
        elif number == _SIMPLE_VALUE and wire == FIXED32:
            (value,) = _FLOAT.unpack(data)
        elif number == _TENSOR and wire == BYTES:
            value = _of_tensor(data)
    return None if value is None else (tag, value)


def _of_tensor(message: bytes) -> float | None:
    """The only element of a tensor of numbers."""
    dtype = 0
    for number, wire, integer, data in fields(message):
        if number == _DTYPE and wire == VARINT:
            dtype = integer
        elif number == _FLOATS and len(data) == 4:
            return float(_FLOAT.unpack(data)[0])
        elif number == _DOUBLES and len(data) == 8:
            return float(_DOUBLE.unpack(data)[0])
        elif number == _CONTENT and wire == BYTES:
            return _element(data, dtype)
        elif number in _VARINTS and (wire == VARINT or 0 < len(data) <= 10):
            return float(signed(integer if wire == VARINT else _packed(data)))
        elif number == _HALVES and (wire == VARINT or 0 < len(data) <= 3):
            bits = integer if wire == VARINT else _packed(data)
            return _element((bits & 0xFFFF).to_bytes(2, "little"), dtype)
    return None


def _packed(data: bytes) -> int:
    (field,) = fields(b"\x08" + data)  # one number and nothing after it
    return field[2]


def _element(data: bytes, dtype: int) -> float | None:
    if dtype == _BFLOAT16 and len(data) == 2:
        return float(_FLOAT.unpack(b"\0\0" + data)[0])
    if dtype in _FORMATS and len(data) == np.dtype(_FORMATS[dtype]).itemsize:
        return float(np.frombuffer(data, dtype=_FORMATS[dtype])[0])
    return None
