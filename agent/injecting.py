"""Having a line of Python run in another process, in its own time, and hearing what came of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lossguard.agent.ptrace import SUPPORTED, CallFailed, hold, may_not
from lossguard.agent.target import PENDING_CALL, RUN_STRING, Target
from lossguard.errors import CannotAttach, NotAllowed

_REMOTE_EXEC_MINOR = 14
_ARRIVES_S = 30.0
"""A process that has run no Python code in its main thread for so long is left alone [s]."""
_TRIES = 20

_ARRIVAL = """
import sys
folder = {folder!r}
try:
    from lossguard.probes.injection import arrive
except BaseException as error:
    import json, os
    why = type(error).__name__ + ": " + str(error)
    answer = {{"state": "not_installed", "python": sys.executable, "why": why}}
    with open(folder + "/answer.tmp", "w") as file:
        json.dump(answer, file)
    os.rename(folder + "/answer.tmp", folder + "/answer.json")
else:
    arrive(folder)
"""

# In the main thread, between two of its instructions: as little as can be. It leaves no name in
# the script's module. A Ctrl-C that falls into it is handed on.
_LINE = """
try:
    __import__("_thread").start_new_thread(
        __import__("builtins").exec, ("exec(open({arrival!r}).read(), {{}})", {{}})
    )
except KeyboardInterrupt:
    __import__("_thread").interrupt_main()
except BaseException:
    pass
"""


class Injection:
    """One request to one process. Its folder is private, and goes when the block ends."""

    def __init__(self, target: Target, request: dict[str, Any]) -> None:
        self._target = target
        self._folder = Path(tempfile.mkdtemp(prefix="lossguard-"))
        self._arrival = self._folder / "arrival.py"
        self._arrival.write_text(_ARRIVAL.format(folder=str(self._folder)))
        (self._folder / "request.json").write_text(json.dumps(request))
        self._page = 0

    def __enter__(self) -> Injection:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def deliver(self) -> None:
        """Raises CannotAttach or NotAllowed, and then the process goes on as before."""
        line = _LINE.format(arrival=str(self._arrival))
        if self._target.minor >= _REMOTE_EXEC_MINOR:
            _remote_exec(self._target, self._folder, line)
        elif SUPPORTED:
            self._by_ptrace(line.encode() + b"\0")
        else:
            raise CannotAttach(
                f"process {self._target.pid} runs Python 3.{self._target.minor}: on this kind of "
                f"machine only Python 3.{_REMOTE_EXEC_MINOR} and later can be attached to"
            )

    def answer(self, is_final: Callable[[dict[str, Any]], bool], wait_s: float) -> dict[str, Any]:
        """The last that was answered within ``wait_s`` [s], or as soon as it is final.

        Raises CannotAttach where nothing was.
        """
        begun = time.monotonic()
        known: dict[str, Any] = {}
        while not (known and is_final(known)):
            waited = time.monotonic() - begun
            if waited > (wait_s if known else _ARRIVES_S):
                break
            if not known and not self._target.is_alive:
                raise CannotAttach(f"process {self._target.pid} has ended")
            time.sleep(0.005)
            known = self._read() or known
        if not known:
            raise CannotAttach(
                f"process {self._target.pid} has run no Python code in its main thread for "
                f"{_ARRIVES_S:g} s; it is left as it was"
            )
        self._give_back()
        return known

    def _read(self) -> dict[str, Any]:
        try:
            read: dict[str, Any] = json.loads((self._folder / "answer.json").read_text())
        except FileNotFoundError:
            return {}
        return read

    def _by_ptrace(self, line: bytes) -> None:
        functions = self._target.functions
        try:
            for _ in range(_TRIES):
                with hold(self._target.pid) as held:
                    self._page = self._page or held.new_page()
                    held.write(self._page, line)
                    # Python runs it at its next instruction that may be interrupted.
                    if held.call(functions[PENDING_CALL], functions[RUN_STRING], self._page) == 0:
                        return
                time.sleep(0.05)  # 32 others wait already
        except PermissionError as error:
            raise NotAllowed(f"process {self._target.pid}: {may_not()}") from error
        except (CallFailed, OSError) as error:
            raise CannotAttach(f"process {self._target.pid}: {error}") from error
        raise CannotAttach(f"process {self._target.pid} has no time for signals")

    def _give_back(self) -> None:
        """The memory that the line was in: it has been read."""
        page, self._page = self._page, 0
        if not page:
            return
        try:
            with hold(self._target.pid) as held:
                held.free_page(page)
        except (CallFailed, OSError):  # it has ended meanwhile
            return


def _remote_exec(target: Target, folder: Path, line: str) -> None:
    """By the interpreter's own door, which only one of the very same version opens."""
    script = folder / "line.py"
    script.write_text(line)
    call = f"import sys; sys.remote_exec({target.pid}, {str(script)!r})"
    program = sys.executable if sys.version_info[1] == target.minor else target.program
    done = subprocess.run([program, "-c", call], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    if "PermissionError" in why:
        raise NotAllowed(f"process {target.pid}: {may_not()}")
    raise CannotAttach(f"process {target.pid}: {why}")
