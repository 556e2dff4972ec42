"""``lossguard attach PID``, inside the process that is already training.

All of it runs in a thread of its own, which ends when it has answered: the training thread is
entered only by torch's own hooks, at a step boundary. What has to be changed while the training
goes on (a hook more, a hook less) is changed while the interpreter runs nobody else, and only
where no thread is in the middle of calling hooks.
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lossguard.probes.self_attaching import SelfAttaching

_ALONE_S = 0.2
"""So long nobody else takes the interpreter: far longer than what we do in that time [s]."""
_PATIENCE_S = 20.0
_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_PASSES_THROUGH = ("patching.py", "stand_ins.py")
_THREAD = "lossguard-injection"


def arrive(folder: str) -> None:
    """Do what ``request.json`` in ``folder`` says, and write ``answer.json`` beside it.

    Returns at once; never raises.
    """
    with suppress(Exception):
        threading.Thread(target=_answer, args=(Path(folder),), name=_THREAD, daemon=True).start()


def _answer(folder: Path) -> None:
    try:
        request = json.loads((folder / "request.json").read_text())
        act = {"attach": _attach, "detach": _detach}[request["action"]]
        answer = act(request, lambda now: _write(folder, now))
    except Exception as error:
        answer = {"state": "failed", "why": f"{type(error).__name__}: {error}"}
    with suppress(OSError):  # whoever asked has gone
        _write(folder, answer)


def _write(folder: Path, answer: dict[str, Any]) -> None:
    (folder / "answer.tmp").write_text(json.dumps(answer))
    (folder / "answer.tmp").rename(folder / "answer.json")


Tell = Callable[[dict[str, Any]], None]


def _attach(request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Watch from the next whole step on, and wait for it."""
    if (known := _already_watched()) is not None:
        return known
    if not _gil_is_there():
        return {"state": "no_gil"}
    if not _optimizers_alive():
        return {"state": "no_optimizer"}
    # Imports and the look for optimizers take a moment, in which the training goes on.
    from lossguard.home import Home, meet_at
    from lossguard.policy_choice import ChosenPolicy
    from lossguard.probes.self_attaching import SelfAttaching

    begun = threading.Event()
    runs: list[str] = []

    def note(loop: Any) -> None:
        runs.append(loop.run)
        begun.set()

    policy = ChosenPolicy(**request["policy"])
    places = dict(request["home"])
    remote = places.pop("remote", "")
    home = Home(**{name: Path(path) for name, path in places.items()}, remote=remote)
    starts = home == _home_by_environment()
    meet_at(home)
    armed = SelfAttaching(
        lambda: policy, request["name"], begun=note, start_agents=starts, joins_late=True
    )
    if not _when_no_hook_runs(armed.arm):
        meet_at(None)
        return {"state": "busy"}
    tell({"state": "armed"})
    deadline = time.monotonic() + request["wait_s"]
    while time.monotonic() < deadline and _armed() is armed:
        if begun.wait(0.1):
            return {"state": "attached", "run": runs[0]}
    return {"state": "armed"}


def _detach(request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Close every watch, and wait for its threads to end."""
    living = sys.modules.get("lossguard.probes.living")
    runs = [loop.run for loop in living.loops_alive()] if living is not None else []
    armed = _armed()
    if not runs and armed is None:
        return {"state": "not_attached"}
    links = {t for t in threading.enumerate() if t.name == "lossguard-link"}

    def let_go() -> None:
        if armed is not None:
            armed.disarm()
        for loop in living.loops_alive() if living is not None else ():
            loop.close("closed", wait=False)

    if not _when_no_hook_runs(let_go):
        return {"state": "busy"}
    _forget_the_rest()
    for thread in links:
        thread.join(_PATIENCE_S)
    left = sorted(t.name for t in threading.enumerate() if t.name.startswith("lossguard"))
    return {"state": "detached", "runs": runs, "threads": [n for n in left if n != _THREAD]}


def _forget_the_rest() -> None:
    from lossguard.home import meet_at
    from lossguard.probes import startup

    startup.forget()
    meet_at(None)


def _already_watched() -> dict[str, Any] | None:
    living = sys.modules.get("lossguard.probes.living")
    runs = [loop.run for loop in living.loops_alive()] if living is not None else []
    if runs:
        return {"state": "already_attached", "runs": runs}
    return {"state": "already_armed"} if _armed() is not None else None


def _armed() -> SelfAttaching | None:
    module = sys.modules.get("lossguard.probes.self_attaching")
    return module.self_attaching() if module is not None else None


def _gil_is_there() -> bool:
    enabled: Callable[[], bool] = getattr(sys, "_is_gil_enabled", lambda: True)
    return enabled()


def _home_by_environment() -> Any:
    from lossguard.home import find_home

    with suppress(Exception):
        return find_home()
    return None


def _optimizers_alive() -> bool:
    module: Any = sys.modules.get("torch.optim.optimizer")
    if module is None:
        return False
    # Asks for the type, never for __class__: a proxy could run code of its own.
    return any(issubclass(type(thing), module.Optimizer) for thing in gc.get_objects())


# --- changing what others are using ------------------------------------------------------------


def _when_no_hook_runs(change: Callable[[], None]) -> bool:
    """Call ``change`` while no thread is within an optimizer's step or a hook of ours.

    False where there was no such moment within 20 s. torch goes over its hooks while it calls
    them: one more or one less in the midst of that is an exception in the training.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        with _interpreter_to_ourselves():
            if not _some_hook_runs():
                change()
                return True
        time.sleep(random.Random().uniform(1e-4, 3e-3))
    return False


@contextmanager
def _interpreter_to_ourselves() -> Iterator[None]:
    """No other thread runs Python code in this block: what we look at stays as it is."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(_ALONE_S)
    try:
        # Threads that wait for their turn have been told the old interval, and ask for it once
        # more before they learn of the new one. After this sleep they all have.
        time.sleep(2 * before)
        collects = gc.isenabled()
        gc.disable()  # a finalizer of somebody's could wait for something
        try:
            yield
        finally:
            if collects:
                gc.enable()
    finally:
        sys.setswitchinterval(before)


def _some_hook_runs() -> bool:
    optimizer: Any = sys.modules.get("torch.optim.optimizer")
    of_torch = getattr(optimizer, "__file__", "")
    me = threading.get_ident()
    for thread, top in sys._current_frames().items():
        frame: Any = top if thread != me else None
        while frame is not None:
            file = frame.f_code.co_filename
            if file == of_torch and frame.f_code.co_name == "wrapper":
                return True
            if file.startswith(_OURS) and not _is_harmless(file, frame):
                return True
            frame = frame.f_back
    return False


def _is_harmless(file: str, frame: Any) -> bool:
    """Frames that only wait for torch to come back, and those of our own threads."""
    name = file.rpartition(os.sep)[2]
    return name in (*_PASSES_THROUGH, "link.py", "runner.py", "injection.py")
