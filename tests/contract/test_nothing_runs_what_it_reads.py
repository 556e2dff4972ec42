"""Bytes from outside are data: no part of Lossguard reads them in a way that could run them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import lossguard

ROOT = Path(lossguard.__file__).parent
PARTS = ("agent", "probes", "detectors", "tui", ".")
MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "shelve", "marshal", "jsonpickle"}
METHODS = {"send_pyobj", "recv_pyobj", "send_serialized", "recv_serialized", "unsafe_load"}
FUNCTIONS = {
    ("os", "system"), ("os", "popen"), ("yaml", "load"), ("builtins", "exec"), ("builtins", "eval"),
}  # fmt: skip

RUNS_THE_USERS_SCRIPT = {
    # `lossguard run SCRIPT` does what `python SCRIPT` does.
    ("probes/runner.py", "exec"),
}


@cache
def files() -> dict[str, ast.Module]:
    """Every module of ours, by its path in the package."""
    found: dict[str, ast.Module] = {}
    for part in PARTS:
        folder = ROOT / part
        for path in folder.rglob("*.py") if part != "." else folder.glob("*.py"):
            found[str(path.relative_to(ROOT))] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def offences(tree: ast.AST) -> Iterator[str]:
    """What is forbidden in it, in words."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"import {a.name}" for a in node.names if a.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] in MODULES:
                yield f"from {node.module}"
        elif isinstance(node, ast.Call):
            yield from _of_call(node)


def _of_call(call: ast.Call) -> Iterator[str]:
    given = {word.arg: word.value for word in call.keywords}
    if isinstance(call.func, ast.Name) and call.func.id in ("eval", "exec", "__import__"):
        yield call.func.id
    if _is_true(given.get("shell")):
        yield "shell=True"
    if _is_true(given.get("allow_pickle")):
        yield "allow_pickle=True"
    if not isinstance(call.func, ast.Attribute):
        return
    if call.func.attr in METHODS:
        yield call.func.attr
    owner = call.func.value.id if isinstance(call.func.value, ast.Name) else ""
    if (owner, call.func.attr) in FUNCTIONS:
        yield f"{owner}.{call.func.attr}"
    if (owner, call.func.attr) == ("torch", "load"):
        only = given.get("weights_only")
        if not (isinstance(only, ast.Constant) and only.value is True):
            yield "torch.load without weights_only=True"


def _is_true(value: ast.expr | None) -> bool:
    """Also what is not known to be false: ``shell=wanted`` could be."""
    return value is not None and not (isinstance(value, ast.Constant) and not value.value)


def test_no_module_unpickles_evaluates_or_shells_out() -> None:
    """The whole package, file by file; what is allowed is named, and still there."""
    found = {(name, what) for name, tree in files().items() for what in offences(tree)}
    assert found == RUNS_THE_USERS_SCRIPT


def test_every_folder_of_the_package_is_looked_at() -> None:
    """The check cannot pass because it saw nothing."""
    names = files()
    for part in (
        "agent/sockets.py",
        "probes/wire.py",
        "detectors/__init__.py",
        "tui/app.py",
        "home.py",
    ):
        assert part in names


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import cloudpickle.fast",
        "socket.recv_pyobj()",
        "eval(text)",
        "exec(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=safe)",
        "yaml.load(text)",
        "subprocess.run(text, shell=True)",
        "subprocess.run(text, shell=wanted)",
        "np.load(path, allow_pickle=True)",
        "os.system(text)",
    ],
)
def test_what_could_run_code_is_found(code: str) -> None:
    """Each way in is recognised."""
    assert list(offences(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "model.eval()",
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=False)",
        "yaml.safe_load(text)",
        "subprocess.run([tool], shell=False)",
        "json.loads(text)",
    ],
)
def test_what_only_reads_is_left_alone(code: str) -> None:
    """The safe twin of each."""
    assert not list(offences(ast.parse(code)))
