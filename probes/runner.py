"""``lossguard run``: a training script as it is, with a probe that attaches by itself."""

from __future__ import annotations

import builtins
import logging
import os
import runpy
import sys
import types
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING

from lossguard.probes import leaving, startup, tracebacks

if TYPE_CHECKING:
    from lossguard.policy_choice import ChosenPolicy


def watch_by_itself(policy: ChosenPolicy, name: str | None) -> None:
    """Attach to the first optimizer that steps, once the script has imported torch."""

    def then() -> None:
        from lossguard.probes.self_attaching import watch_what_trains

        watch_what_trains(lambda: policy, name)

    startup.when_torch_is_imported(then)


def narrate() -> None:
    """What Lossguard has to say goes to stderr, one line each; the script's logging is its own.

    The end of a traceback that nobody caught is shown without what it owes to us. Idempotent.
    """
    log = logging.getLogger("lossguard")
    if any(type(handler) is _Narrator for handler in log.handlers):
        return
    handler = _Narrator(sys.stderr)
    handler.setFormatter(logging.Formatter("lossguard: %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    tracebacks.show_without_ours()


class _Narrator(logging.StreamHandler):  # type: ignore[type-arg]
    """Ours, and nobody else's."""


def run(script: str, arguments: Sequence[str], *, is_module: bool) -> None:
    """A script, or with ``is_module`` a module, to its end.

    What it raises, and how the process ends by that, are those of a plain run.
    """
    try:
        (run_module if is_module else run_script)(script, arguments)
    except SystemExit as end:
        leaving.exit_code_of_script = leaving.code_of(end)
        raise


def run_script(script: str, arguments: Sequence[str]) -> None:
    """``python script arguments`` in this process: ``sys.argv``, ``sys.path[0]``, ``__main__``.

    Of a folder or a zip file ``__main__.py`` is run, as Python does.
    """
    sys.argv = [script, *arguments]
    path = os.path.join(os.getcwd(), script)
    if _is_application(script):
        sys.path[0] = path
        _become_main(None)
        runpy._run_module_as_main("__main__", alter_argv=False)  # type: ignore[attr-defined]
        return
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = str(Path(path).resolve().parent)
    try:
        code = compile(Path(path).read_bytes(), path, "exec", dont_inherit=True)
    except SyntaxError as error:  # Python shows it without a traceback: no frame has run
        sys.excepthook(type(error), error.with_traceback(None), None)
        sys.exit(1)
    exec(code, _become_main(path).__dict__)


def run_module(module: str, arguments: Sequence[str]) -> None:
    """``python -m module arguments`` in this process."""
    sys.argv = ["-m", *arguments]  # so it is while the module is looked for
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = str(Path.cwd())
    _become_main(None)
    runpy._run_module_as_main(module)  # type: ignore[attr-defined]


def _is_application(script: str) -> bool:
    if script.endswith(".py"):
        return False
    import zipfile

    return os.path.isdir(script) or zipfile.is_zipfile(script)


def _become_main(path: str | None) -> types.ModuleType:
    """A new ``__main__``, with what Python itself would put there."""
    main = types.ModuleType("__main__")
    if sys.version_info < (3, 14):
        main.__annotations__ = {}
    main.__dict__["__builtins__"] = builtins
    if path is not None:
        main.__dict__.update(
            __file__=path, __cached__=None, __loader__=SourceFileLoader("__main__", path)
        )
    sys.modules["__main__"] = main
    return main
