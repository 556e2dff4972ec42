"""A process that somebody wants to attach to: what can be known without touching it."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from lossguard.agent.elf import Mapping, addresses, mappings
from lossguard.agent.ptrace import may_not
from lossguard.errors import CannotAttach, NotAllowed, UsageError

PENDING_CALL, RUN_STRING = "Py_AddPendingCall", "PyRun_SimpleString"
_VERSION = re.compile(r"python3\.(\d+)")
_TORCH = re.compile(r"/libtorch(_cpu|_python|_cuda)?\.so")


class Target:
    """A process with Python and torch in it, of this very user."""

    def __init__(self, pid: int) -> None:
        """Raises CannotAttach, NotAllowed or UsageError, which say what is in the way."""
        self.pid = pid
        if pid == os.getpid():
            raise UsageError(f"{pid} is this command itself")
        status = _status(pid)
        self._require_alive(status)
        self._require_ours(status)
        mapped = self._mappings()
        self.minor = _python_minor(mapped)
        self.functions = self._python_functions()
        if not any(_TORCH.search(mapping.path) for mapping in mapped):
            raise CannotAttach(f"process {pid} has not loaded torch: it trains nothing")

    def _require_alive(self, status: dict[str, str]) -> None:
        state = status.get("State", "")
        if state.startswith(("Z", "X")):
            raise CannotAttach(f"process {self.pid} has ended")
        if state.startswith(("T", "t")):
            raise CannotAttach(f"process {self.pid} is stopped; `kill -CONT {self.pid}` first")

    def _require_ours(self, status: dict[str, str]) -> None:
        owner = int(status["Uid"].split()[1])
        if owner != os.geteuid():
            raise NotAllowed(
                f"process {self.pid} belongs to uid {owner}, and you are {os.geteuid()}: "
                "say it as that user, whose agent is to watch it"
            )
        tracer = status.get("TracerPid", "0")
        if tracer != "0":
            raise NotAllowed(f"process {self.pid} is in the hands of a debugger, process {tracer}")
        try:
            elsewhere = _namespace(self.pid) != _namespace(os.getpid())
        except OSError as error:
            raise NotAllowed(f"process {self.pid}: {may_not()}") from error
        if elsewhere:
            raise NotAllowed(f"process {self.pid} runs in a container of its own: say it in there")

    def _mappings(self) -> list[Mapping]:
        try:
            return mappings(self.pid)
        except PermissionError as error:
            raise NotAllowed(f"process {self.pid}: {may_not()}") from error
        except OSError as error:
            raise CannotAttach(f"process {self.pid} has ended") from error

    def _python_functions(self) -> dict[str, int]:
        try:
            found = addresses(self.pid, {PENDING_CALL, RUN_STRING})
        except OSError as error:
            raise CannotAttach(f"process {self.pid} cannot be looked at: {error}") from error
        if not found:
            raise CannotAttach(f"process {self.pid} is not a Python program")
        return found

    @property
    def program(self) -> str:
        """The file of its interpreter."""
        return str(Path(f"/proc/{self.pid}/exe").readlink())

    @property
    def is_alive(self) -> bool:
        try:
            return not _status(self.pid).get("State", "Z").startswith(("Z", "X"))
        except CannotAttach:
            return False


def _status(pid: int) -> dict[str, str]:
    if platform.system() != "Linux":
        raise CannotAttach("attaching to a running process works on Linux only")
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError as error:
        raise CannotAttach(f"there is no process {pid}") from error
    pairs = (line.partition(":") for line in text.splitlines())
    return {key: value.strip() for key, _, value in pairs}


def _namespace(pid: int) -> str:
    return str(Path(f"/proc/{pid}/ns/mnt").readlink())


def _python_minor(mapped: list[Mapping]) -> int:
    """11 of Python 3.11; 0 where no file's name tells."""
    found = [int(m.group(1)) for mapping in mapped if (m := _VERSION.search(mapping.path))]
    return max(set(found), key=found.count) if found else 0
