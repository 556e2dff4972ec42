"""What an import loads: the agent and the dashboard live on machines without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import lossguard

ROOT = Path(__file__).parents[2]

BLOCK = """
import sys
from importlib.abc import MetaPathFinder

class Block(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Block())
"""


def loaded_by(modules: list[str], before: str = "") -> set[str]:
    """The top-level names in ``sys.modules`` of a new process that imports ``modules``."""
    imports = "".join(f"import {module}\n" for module in modules)
    code = f"{before}{imports}import sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stdout.split()}


def modules_of(folder: str) -> list[str]:
    """Every module of one of our folders, by its full name."""
    paths = sorted((ROOT / folder).rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return [f"lossguard.{name.removesuffix('.__init__')}" for name in names]


@pytest.mark.parametrize("folder", ["agent", "detectors", "tui"])
def test_no_module_of_the_other_side_loads_torch(folder: str) -> None:
    """Each of them, not only the package: a lazy import must not hide a greedy one."""
    assert "torch" not in loaded_by(modules_of(folder))


@pytest.mark.parametrize("folder", ["agent", "detectors", "tui"])
def test_every_module_of_the_other_side_works_without_torch(folder: str) -> None:
    assert "lossguard" in loaded_by(["lossguard", *modules_of(folder)], before=BLOCK)


def test_importing_lossguard_costs_nothing() -> None:
    """A training script that imports it and does not attach pays for none of these."""
    heavy = {"torch", "numpy", "scipy", "textual", "rich", "typer", "zmq", "msgspec", "asyncio"}
    assert not loaded_by(["lossguard"]) & heavy


def test_a_viewer_loads_no_numerics() -> None:
    """``lossguard runs`` answers at once: asking an agent takes a socket, not scipy."""
    assert not loaded_by(["lossguard.agent.client"]) & {"torch", "numpy", "scipy", "textual"}


def test_reading_the_agents_settings_loads_nothing_heavy() -> None:
    """``lossguard run`` does it in the process that trains, before its script."""
    heavy = {"torch", "numpy", "scipy", "zmq", "psutil", "sqlite3"}
    assert not loaded_by(["lossguard.agent.settings"]) & heavy


@pytest.mark.parametrize("name", lossguard.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(lossguard, name) is not None
    assert name in dir(lossguard)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """The lazy module behaves as any other: hasattr and star imports work."""
    assert not hasattr(lossguard, "no_such_name")
