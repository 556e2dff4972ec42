"""Calling one function in another process, and leaving no trace of it: x86-64 Linux.

The process is held still for well below a millisecond, at whatever instruction it has reached.
So the function must be one that may be called anywhere, as from a signal handler: it must not
allocate, nor take a lock that the thread may hold. ``Py_AddPendingCall`` is such a function;
``dlopen`` and ``PyGILState_Ensure``, by which injection is usually done, are not.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lossguard.agent.elf import mappings

SUPPORTED = platform.system() == "Linux" and platform.machine() == "x86_64"

_SINGLESTEP, _CONT, _DETACH, _GETREGSET, _SETREGSET = 9, 7, 17, 0x4204, 0x4205
_SEIZE, _INTERRUPT = 0x4206, 0x4207
_GENERAL_REGISTERS, _EXTENDED_STATE = 1, 0x202
_ALL_THREADS = 0x40000000
_MMAP, _MUNMAP = 9, 11
_PAGE = 4096
_SYSCALL = b"\x0f\x05"
_C_LIBRARIES = ("libc.", "libc-", "ld-musl", "[vdso]")
_RED_ZONE = 128
_DIRECTION_FLAG = 0x400
_TIMEOUT_S = 2.0

_NAMES = (
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx",
    "rsi", "rdi", "orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds",
    "es", "fs", "gs",
)  # fmt: skip


class Registers(ctypes.Structure):
    """``struct user_regs_struct``."""

    _fields_ = [(name, ctypes.c_ulonglong) for name in _NAMES]


class _Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class CallFailed(Exception):
    """The process could not be held, or the call did not come to its end. It goes on as before."""


class Held:
    """The main thread of a process, held still; ``release`` lets it go on as if nothing was."""

    def __init__(self, pid: int) -> None:
        """Raises OSError (EPERM: not allowed, ESRCH: no such process)."""
        self._pid = pid
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.ptrace.restype = ctypes.c_long
        self._libc.ptrace.argtypes = [
            ctypes.c_long,
            ctypes.c_long,
            ctypes.c_void_p,
            ctypes.c_void_p,
        ]
        self._ptrace(_SEIZE)
        try:
            self._stop()
            self._before = self._registers()
            self._state = self._read_set(_EXTENDED_STATE, ctypes.create_string_buffer(65536))
            self._memory = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        except BaseException:
            self._ptrace(_DETACH)
            raise

    def new_page(self) -> int:
        """The address of 4096 bytes of new memory in the process."""
        prot_read_write, map_private_anonymous = 3, 0x22
        no_file = 2**64 - 1
        address = self._system_call(
            _MMAP, 0, _PAGE, prot_read_write, map_private_anonymous, no_file, 0
        )
        if address > 2**64 - _PAGE:
            raise CallFailed("the process cannot have another page of memory")
        return address

    def free_page(self, address: int) -> None:
        """What ``new_page`` gave."""
        self._system_call(_MUNMAP, address, _PAGE)

    def write(self, address: int, content: bytes) -> None:
        """Into the memory of the process."""
        os.pwrite(self._memory, content, address)

    def call(self, function: int, first: int, second: int) -> int:
        """``function(first, second)`` in the thread that is held; the int it returns.

        Raises CallFailed where it has not returned after 2 s.
        """
        registers = self._copy()
        slot = ((registers.rsp - _RED_ZONE - 64) & ~0xF) - 8  # as if by a `call` instruction
        self.write(slot, bytes(8))  # it returns to address 0, and we hear of that
        registers.rsp, registers.rip = slot, function
        registers.rdi, registers.rsi, registers.rax = first, second, 0
        registers.eflags &= ~_DIRECTION_FLAG
        self._set(registers)
        self._go(_CONT, signal.SIGSEGV)
        after = self._registers()
        # A shadow stack does not let it return to 0: then it stands at its last instruction.
        if after.rip != 0 and (after.rsp != slot or after.rip == function):
            raise CallFailed(f"the call crashed at {after.rip:#x}")
        return ctypes.c_int(after.rax & 0xFFFFFFFF).value

    def release(self) -> None:
        """Put every register back, and let the process go on."""
        try:
            if self._state:
                buffer = ctypes.create_string_buffer(self._state, len(self._state))
                self._exchange(_SETREGSET, _EXTENDED_STATE, buffer)
            self._set(self._before)
        finally:
            os.close(self._memory)
            self._ptrace(_DETACH)

    # --- how ------------------------------------------------------------------------------

    def _system_call(self, number: int, *arguments: int) -> int:
        registers = self._copy()
        registers.rip, registers.rax = self._a_syscall_instruction(), number
        values = (*arguments, 0, 0, 0, 0, 0, 0)
        names = ("rdi", "rsi", "rdx", "r10", "r8", "r9")
        for name, value in zip(names, values, strict=False):
            setattr(registers, name, value)
        self._set(registers)
        self._go(_SINGLESTEP, signal.SIGTRAP)
        return int(self._registers().rax)

    def _a_syscall_instruction(self) -> int:
        for mapping in mappings(self._pid):
            name = mapping.path.rpartition("/")[2]
            if "x" in mapping.permissions and name.startswith(_C_LIBRARIES):
                code = os.pread(self._memory, mapping.end - mapping.begin, mapping.begin)
                if (at := code.find(_SYSCALL)) >= 0:
                    return mapping.begin + at
        raise CallFailed("no C library was found in the process")

    def _go(self, how: int, until: int) -> None:
        """On, until it stops by signal ``until``; others are the process's own, and reach it."""
        deadline = time.monotonic() + _TIMEOUT_S
        pass_on = 0
        while True:
            self._ptrace(how, data=pass_on)
            status = self._wait(deadline)
            stopped_by, event = os.WSTOPSIG(status), status >> 16
            if stopped_by == until and not event:
                return
            pass_on = 0 if event else stopped_by

    def _stop(self) -> None:
        self._ptrace(_INTERRUPT)
        self._wait(time.monotonic() + _TIMEOUT_S)

    def _wait(self, deadline: float) -> int:
        while True:
            seen, status = os.waitpid(self._pid, os.WNOHANG | _ALL_THREADS)
            if seen and not os.WIFSTOPPED(status):
                raise CallFailed("the process has ended")
            if seen:
                return status
            if time.monotonic() > deadline:
                self._ptrace(_INTERRUPT)
                os.waitpid(self._pid, _ALL_THREADS)
                raise CallFailed("it did not come to an end")
            time.sleep(0.0001)

    def _registers(self) -> Registers:
        registers = Registers()
        self._read_set(_GENERAL_REGISTERS, registers)
        return registers

    def _copy(self) -> Registers:
        """As they were, but in no system call that would be begun again."""
        copy = Registers.from_buffer_copy(self._before)
        copy.orig_rax = 2**64 - 1
        return copy

    def _set(self, registers: Registers) -> None:
        self._exchange(_SETREGSET, _GENERAL_REGISTERS, registers)

    def _read_set(self, kind: int, into: ctypes.Array[ctypes.c_char] | Registers) -> bytes:
        length = self._exchange(_GETREGSET, kind, into)
        return bytes(into)[:length]

    def _exchange(
        self, request: int, kind: int, what: ctypes.Array[ctypes.c_char] | Registers
    ) -> int:
        vector = _Vector(ctypes.addressof(what), ctypes.sizeof(what))
        self._ptrace(request, kind, ctypes.addressof(vector))
        return int(vector.length)

    def _ptrace(self, request: int, address: int = 0, data: int = 0) -> None:
        if self._libc.ptrace(request, self._pid, address, data) == -1:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


@contextmanager
def hold(pid: int) -> Iterator[Held]:
    """Hold a process still for the length of a block, in which Ctrl-C has to wait."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        held = Held(pid)
        try:
            yield held
        finally:
            held.release()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def may_not(scope: Path = Path("/proc/sys/kernel/yama/ptrace_scope")) -> str:
    """Why the kernel may have refused, for whoever has to do something about it."""
    try:
        level = int(scope.read_text())
    except (OSError, ValueError):
        level = 0
    if level == 0:
        return (
            "the kernel does not allow it; in a container, it needs the capability SYS_PTRACE "
            "(docker run --cap-add=SYS_PTRACE), and the process must not have forbidden it"
        )
    ways = {1: "`sudo sysctl kernel.yama.ptrace_scope=0` allows it until the next boot",
            2: "only root may: say it with sudo, or `sudo sysctl kernel.yama.ptrace_scope=0`",
            3: "nobody may, until the machine boots with another setting"}  # fmt: skip
    return f"{scope} is {level}: {ways.get(level, ways[3])}"
