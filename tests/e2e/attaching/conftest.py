"""A Python as a user has it: with Lossguard installed, start-up file and all."""

from __future__ import annotations

import shutil
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.attaching.scripts import Scripts
from tests.support.agents import AgentProcess

ROOT = Path(__file__).resolve().parents[3]
STARTUP = ROOT / "probes" / "lossguard-startup.pth"


def new_python(folder: Path, *paths: str) -> str:
    """A virtual environment that sees what this one has installed, and ``paths`` before it."""
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    packages = folder / "lib" / version / "site-packages"
    there = {sysconfig.get_path("purelib"): None, sysconfig.get_path("platlib"): None}
    (packages / "here.pth").write_text("\n".join([*paths, *there]) + "\n")
    return str(folder / "bin" / "python")


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of an environment in which Lossguard is installed."""
    folder = tmp_path_factory.mktemp("with")
    made = new_python(folder, str(ROOT))
    for packages in folder.glob("lib/*/site-packages"):
        shutil.copy(STARTUP, packages)
    return made


@pytest.fixture(scope="session")
def python_without(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of one in which it is not."""
    return new_python(tmp_path_factory.mktemp("without"))


@pytest.fixture
def scripts(tmp_path: Path, agent: AgentProcess, python: str) -> Iterator[Scripts]:
    """Scripts in a folder of their own; whoever is watched is watched by this test's agent."""
    scripts = Scripts(tmp_path, agent, python)
    yield scripts
    scripts.kill_all()
