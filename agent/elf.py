"""Where a function lies in another process: its mappings, and the symbols of their files."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

_DYNAMIC_SYMBOLS = 11
_HEADER = struct.Struct("<16xHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_LOAD = 1
_PAGE = 4096


@dataclass(frozen=True)
class Mapping:
    """One line of ``/proc/PID/maps``."""

    begin: int
    end: int
    permissions: str
    offset: int
    path: str


def mappings(pid: int) -> list[Mapping]:
    """Of a process. Raises OSError where it is gone, or not ours to look at."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        parts = line.split(maxsplit=5)
        begin, end = (int(number, 16) for number in parts[0].split("-"))
        path = parts[5] if len(parts) > 5 else ""
        found.append(Mapping(begin, end, parts[1], int(parts[2], 16), path))
    return found


class Symbols:
    """The dynamic symbols of a 64-bit little-endian ELF file.

    Raises ValueError for any other file.
    """

    def __init__(self, content: bytes) -> None:
        if content[:6] != b"\x7fELF\x02\x01":
            raise ValueError("not a 64-bit little-endian ELF file")
        self._content = content
        header = _HEADER.unpack_from(content, 0)
        self._program_offset, self._section_offset = header[4], header[5]
        self._program_size, self._num_programs = header[8], header[9]
        self._section_size, self._num_sections = header[10], header[11]

    def values(self, names: set[str]) -> dict[str, int]:
        """The addresses of those that the file defines, as the file counts them."""
        wanted = {name.encode(): name for name in names}
        found: dict[str, int] = {}
        for section in map(self._section, range(self._num_sections)):
            if section[1] != _DYNAMIC_SYMBOLS:
                continue
            offset, size = section[4], section[5]
            strings = self._section(section[6])[4]
            for at in range(offset, offset + size, _SYMBOL.size):
                name_at, _, _, index, value, _ = _SYMBOL.unpack_from(self._content, at)
                end = self._content.index(b"\0", strings + name_at)
                name = wanted.get(self._content[strings + name_at : end])
                if name is not None and index != 0:
                    found[name] = value
        return found

    def address_of_offset(self, offset: int) -> int:
        """Where the byte at ``offset`` of the file is put, as the file counts addresses."""
        for i in range(self._num_programs):
            at = self._program_offset + i * self._program_size
            kind, _, begin, address, _, size, _, _ = _PROGRAM.unpack_from(self._content, at)
            if kind == _LOAD and begin & -_PAGE <= offset < begin + size:
                return int(address + offset - begin)
        raise ValueError(f"no segment has offset {offset}")

    def _section(self, index: int) -> tuple[int, ...]:
        return _SECTION.unpack_from(
            self._content, self._section_offset + index * self._section_size
        )


def addresses(pid: int, names: set[str]) -> dict[str, int]:
    """Where the functions of CPython's interface are in a process; empty where it has none.

    Looks into the program itself and what is called ``libpython``; reads their files as the
    process sees them, also where they were replaced since. Raises OSError.
    """
    program = str(Path(f"/proc/{pid}/exe").readlink())
    seen: set[str] = set()
    for mapping in mappings(pid):
        path = mapping.path
        if path in seen or not (path == program or "/libpython" in path):
            continue
        seen.add(path)
        view = f"/proc/{pid}/map_files/{mapping.begin:x}-{mapping.end:x}"
        file = f"/proc/{pid}/exe" if path == program else view
        try:
            content = _read(file, f"/proc/{pid}/root{path}")
            symbols = Symbols(content)
            found = symbols.values(names)
            base = mapping.begin - symbols.address_of_offset(mapping.offset)
        except (OSError, ValueError, struct.error, IndexError):
            continue
        if set(found) == names:
            return {name: base + value for name, value in found.items()}
    return {}


def _read(file: str, otherwise: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError:
        return Path(otherwise).read_bytes()
