"""What stands between ``lossguard attach`` and the other process: refusals, and the ways in."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lossguard.agent import elf, ptrace
from lossguard.agent.injecting import Injection
from lossguard.errors import CannotAttach, NotAllowed


@pytest.mark.parametrize(
    ("level", "way"), [("0", "SYS_PTRACE"), ("1", "sysctl"), ("2", "only root"), ("3", "nobody")]
)
def test_a_refusal_of_the_kernel_comes_with_a_way_out(level: str, way: str, tmp_path: Path) -> None:
    scope = tmp_path / "ptrace_scope"
    scope.write_text(f"{level}\n")
    assert way in ptrace.may_not(scope)
    assert "SYS_PTRACE" in ptrace.may_not(tmp_path / "a kernel without Yama")


def test_functions_are_found_where_they_are() -> None:
    """In this very process, whose linker knows the addresses as well."""
    names = {"Py_AddPendingCall", "PyRun_SimpleString"}
    known = {
        name: ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value for name in names
    }
    assert elf.addresses(os.getpid(), names) == known
    assert elf.addresses(os.getpid(), {"Py_NoSuchThing"}) == {}


@pytest.fixture
def counting() -> Iterator[subprocess.Popen[str]]:
    """A process that computes without end, and says at the end whether it was always the same."""
    code = (
        "import math, sys\nprint('up', flush=True)\nseen = set()\nn = [0]\nlast = [False]\n"
        "while not last[0]: seen.add(math.fsum(math.sin(i * 0.37) * 1.1 for i in range(500)))\n"
        "print(len(seen), n[0])"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.skipif(not ptrace.SUPPORTED, reason="x86-64 only")
def test_a_hundred_calls_at_any_instruction_change_no_result(
    counting: subprocess.Popen[str],
) -> None:
    """Each is carried out once; floating-point registers are as they were."""
    names = {"Py_AddPendingCall", "PyRun_SimpleString"}
    functions = elf.addresses(counting.pid, names)
    page, accepted = 0, 0
    for _ in range(100):
        with ptrace.hold(counting.pid) as held:
            page = page or held.new_page()
            held.write(page, b"n[0] += 1\0")
            call = (functions["Py_AddPendingCall"], functions["PyRun_SimpleString"], page)
            accepted += held.call(*call) == 0
    while True:
        with ptrace.hold(counting.pid) as held:
            last = held.new_page()
            held.write(last, b"last[0] = True\0")
            if held.call(call[0], call[1], last) == 0:
                break
    stdout, _ = counting.communicate(timeout=60)
    assert stdout == f"1 {accepted}\n"
    assert accepted > 0


@pytest.mark.skipif(not ptrace.SUPPORTED, reason="x86-64 only")
def test_a_call_that_crashes_is_undone(counting: subprocess.Popen[str]) -> None:
    """A wrong address is our trouble: the process goes on with its own registers."""
    functions = elf.addresses(counting.pid, {"Py_AddPendingCall", "PyRun_SimpleString"})
    with ptrace.hold(counting.pid) as held:
        page = held.new_page()
        with pytest.raises(ptrace.CallFailed, match="crashed"):
            held.call(page, 0, 0)  # may be read and written, not run
    with ptrace.hold(counting.pid) as held:
        held.write(page, b"last[0] = True\0")
        held.call(functions["Py_AddPendingCall"], functions["PyRun_SimpleString"], page)
    assert counting.communicate(timeout=60)[0] == "1 0\n"


class Newer:
    """A process of a Python that has a door for this; ``program`` plays its interpreter."""

    pid = 4711
    minor = 99
    is_alive = True

    def __init__(self, program: Path) -> None:
        self.program = str(program)


@pytest.mark.parametrize(
    ("ends", "raised"),
    [
        ("exit 0", None),
        ("echo 'PermissionError: no' >&2; exit 1", NotAllowed),
        ("echo 'RuntimeError: disabled' >&2; exit 1", CannotAttach),
    ],
)
def test_a_newer_python_is_asked_through_its_own_door(
    ends: str, raised: Any, tmp_path: Path
) -> None:
    """``sys.remote_exec``, said by an interpreter of the same version."""
    said = tmp_path / "said"
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\necho "$2" > {said}\n{ends}\n')
    program.chmod(0o700)
    newer: Any = Newer(program)
    with Injection(newer, {"action": "detach"}) as injection:
        if raised is None:
            injection.deliver()
        else:
            with pytest.raises(raised, match="4711"):
                injection.deliver()
        assert "sys.remote_exec(4711, " in said.read_text()
        script = Path(said.read_text().split("'")[1])
        assert "start_new_thread" in script.read_text()
    assert not script.parent.exists()
