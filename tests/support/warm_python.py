"""Python that has loaded torch already: what is begun here need not load it again.

To load torch, and what the first optimizer loads of it, takes some 3.5 s of a processor; most
trainings of the tests take less. One process of each test process has it, does nothing, and forks
for every program that is begun. That is then the main program of its process: arguments,
environment, folder, output, exit code are its own. Where the loading itself matters, a test starts
a Python of its own.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import IO, Any, cast

_LONGEST_ORDER = 1 << 20


class Program:
    """``python command`` out of a warm one; used like ``subprocess.Popen``.

    Its output goes to the file ``output``, stderr too; without that it has three pipes.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        output: Path | None = None,
    ) -> None:
        self.returncode: int | None = None
        ended, tells_end = os.pipe()
        self._ended = ended
        if output is None:
            ours, theirs = zip(
                *(self._pipe(writes) for writes in (True, False, False)), strict=True
            )
            self.stdin, self.stdout, self.stderr = ours
        else:
            file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            theirs = (os.open(os.devnull, os.O_RDONLY), file, os.dup(file))
        order = {
            "command": [str(word) for word in command],
            "cwd": str(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
        }
        self.pid = _warm().begin(order, [*theirs, tells_end])
        for descriptor in (*theirs, tells_end):
            os.close(descriptor)

    @staticmethod
    def _pipe(writes: bool) -> tuple[IO[str], int]:
        """Our end and the program's."""
        reading, writing = os.pipe()
        ours, theirs = (writing, reading) if writes else (reading, writing)
        return os.fdopen(ours, "w" if writes else "r"), theirs

    def wait(self, timeout_s: float | None = None) -> int:
        """Its exit code, as ``Popen`` has it; ``TimeoutExpired``."""
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._ended, selectors.EVENT_READ)
                if not selector.select(timeout_s):
                    raise subprocess.TimeoutExpired("a warm program", timeout_s or 0.0)
            self.returncode = int(os.read(self._ended, 16))
            os.close(self._ended)
        return self.returncode

    def poll(self) -> int | None:
        """The exit code, or None as long as it goes on."""
        try:
            return self.wait(0.0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        """If it has not ended yet."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, says: str = "", timeout: float = 100.0) -> tuple[str, str]:
        """What else it writes until its end, with ``says`` for its stdin; then it is over."""
        overdue = threading.Timer(timeout, self.kill)
        errors: list[str] = []
        reader = threading.Thread(target=lambda: errors.append(self.stderr.read()))
        overdue.start()
        reader.start()
        with suppress(BrokenPipeError):  # it has ended, or reads nothing
            self.stdin.write(says)
            self.stdin.close()
        output = self.stdout.read()
        reader.join()
        self.wait()
        overdue.cancel()
        overdue.join()
        self.stdout.close()
        self.stderr.close()
        return output, errors[0]


def run(command: Sequence[str | Path], **settings: Any) -> subprocess.CompletedProcess[str]:
    """To its end, as ``subprocess.run`` with all output captured."""
    program = Program(command, **settings)
    stdout, stderr = program.communicate()
    return subprocess.CompletedProcess(list(command), program.wait(), stdout, stderr)


class _Warm:
    """The process that forks, seen from the tests."""

    def __init__(self) -> None:
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def begin(self, order: dict[str, Any], descriptors: list[int]) -> int:
        """The new process."""
        socket.send_fds(self._orders, [json.dumps(order).encode()], descriptors)
        pid = self._orders.recv(64)
        assert pid, "the warm Python has ended"
        return int(pid)

    def close(self) -> None:
        """It ends, and all that it began."""
        self._orders.close()
        self._process.wait()


@cache
def _warm() -> _Warm:
    warm = _Warm()
    atexit.register(warm.close)
    return warm


# --- in the process that forks -------------------------------------------------------------------


def serve(orders: socket.socket) -> list[str] | None:
    """Fork for each order. Returns in a child, with what to run; and None when nobody orders any
    more: then all children are dead."""
    ends: dict[int, tuple[int, int]] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(orders, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not orders:
                    selector.unregister(key.fileobj)
                    _report(cast("int", key.fileobj), *ends.pop(cast("int", key.fileobj)))
                    continue
                message, descriptors, _, _ = socket.recv_fds(orders, _LONGEST_ORDER, 4)
                if not message:
                    for pid, _ in ends.values():
                        os.kill(pid, signal.SIGKILL)
                    return None
                pid = os.fork()
                if pid == 0:
                    for descriptor in (*ends, *(tells for _, tells in ends.values())):
                        os.close(descriptor)
                    orders.close()
                    return _prepare(json.loads(message), descriptors)
                for descriptor in descriptors[:3]:
                    os.close(descriptor)
                handle = os.pidfd_open(pid)
                ends[handle] = pid, descriptors[3]
                selector.register(handle, selectors.EVENT_READ)
                orders.send(str(pid).encode())


def _report(handle: int, pid: int, tells: int) -> None:
    """A child has ended."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with suppress(BrokenPipeError):  # nobody asks any more
        os.write(tells, str(code).encode())
    os.close(tells)
    os.close(handle)


def _prepare(order: dict[str, Any], descriptors: list[int]) -> list[str]:
    """This process, as a new Python would find itself."""
    for number, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, number)
    for descriptor in descriptors:
        os.close(descriptor)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    command: list[str] = order["command"]
    sys.orig_argv = [sys.executable, *command]
    sys.path[0:1] = [*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.excepthook = _show_without_this_file
    return command


def _show_without_this_file(
    kind: type[BaseException], error: BaseException, trace: types.TracebackType | None
) -> None:
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    sys.__excepthook__(kind, error.with_traceback(trace), trace)


def become(command: list[str]) -> None:
    """``python command``, in this process."""
    if command[0] == "-m":
        import runpy

        sys.argv = ["-m", *command[2:]]
        sys.path.insert(0, os.getcwd())
        runpy._run_module_as_main(command[1])  # type: ignore[attr-defined]
        return
    script = os.path.join(os.getcwd(), command[0])
    sys.argv = command
    sys.path.insert(0, os.path.dirname(os.path.realpath(script)))
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=script, __loader__=SourceFileLoader("__main__", script))
    main.__dict__.update(__cached__=None, __annotations__={})
    sys.modules["__main__"] = main
    exec(compile(Path(script).read_bytes(), script, "exec", dont_inherit=True), main.__dict__)


if __name__ == "__main__":
    import torch._dynamo  # noqa: F401

    assert threading.active_count() == 1, "what is forked must have no threads"
    gc.collect()
    gc.freeze()
    given = serve(socket.socket(fileno=int(sys.argv[1])))
    if given:
        become(given)
