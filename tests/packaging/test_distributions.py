"""What ends up in the wheel and the sdist, and what they do next to a user's own files."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("agent", "detectors", "probes", "tui")
STARTUP = "lossguard-startup.pth"


def build(source: Path, target: str, folder: Path) -> Path:
    """Build a ``wheel`` or an ``sdist`` of ``source`` into ``folder``, and return it."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build(ROOT, "sdist", folder / "built")) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.glob("lossguard-*")
    return unpacked


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel unpacked in it, as pip leaves it in site-packages."""
    folder = tmp_path_factory.mktemp("site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def files_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def ours() -> set[str]:
    """Every file of the package as the repository holds it, by its path in a wheel."""
    package = ROOT / "lossguard"
    own = [path.name for path in package.iterdir() if path.is_file()]
    own += [str(path.relative_to(package)) for path in (package / "integrations").glob("*.py")]
    parts = [
        str(path.relative_to(ROOT))
        for folder in (*FOLDERS, "examples")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name != STARTUP
    ]
    return {f"lossguard/{name}" for name in [*own, *parts]}


def run(code: str, folder: Path, installed: Path) -> str:
    """Run ``code`` as a script in ``folder``, with the unpacked wheel before any other."""
    script = folder / "train.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_has_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    """No top-level ``agent`` or ``probes``, no tests; and nothing is lost behind a link. Beside
    the package lies what Python reads at its start."""
    information = {name for name in files_in(wheel) if ".dist-info/" in name}
    assert files_in(wheel) - information == ours() | {STARTUP}
    assert all(name.startswith("lossguard-") for name in information)
    assert any(name.endswith("licenses/LICENSE") for name in information)


def test_the_wheel_has_types_styles_and_the_demo(wheel: Path) -> None:
    """The files that are not modules, and are missed only once the package is installed."""
    needed = ["py.typed", "examples/train_gpt.py", "examples/trouble.py", "examples/data/kjv.txt"]
    needed += [f"{folder}/__init__.py" for folder in FOLDERS]
    assert {f"lossguard/{name}" for name in needed} <= files_in(wheel)


def test_a_wheel_built_from_the_sdist_is_the_same(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    """The sdist holds files in the place of links: pip builds from it what we built."""
    assert not [path for path in sdist.rglob("*") if path.is_symlink()]
    assert files_in(build(sdist, "wheel", tmp_path)) == files_in(wheel)


def test_an_editable_install_has_the_start_up_file_too(wheel: Path) -> None:
    """This environment is one."""
    (startup,) = (file for file in metadata.files("lossguard") or () if file.name == STARTUP)
    with zipfile.ZipFile(wheel) as archive:
        assert Path(str(startup.locate())).read_bytes() == archive.read(STARTUP)


@pytest.mark.parametrize(("setting", "armed"), [("1", "True"), ("0", "False")])
def test_python_arms_itself_where_the_wheel_is_installed(
    setting: str, armed: str, installed: Path, tmp_path: Path
) -> None:
    """As ``site`` treats the folder it is in; and only where the environment asks for it."""
    code = f"""
import site, sys
site.addsitedir({str(installed)!r})
print(any(type(finder).__name__ == "TorchImport" for finder in sys.meta_path))
"""
    environment = {**os.environ, "LOSSGUARD": setting}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], env=environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (f"{armed}\n", "")


def test_the_sdist_has_no_tests(sdist: Path) -> None:
    assert {path.name for path in sdist.iterdir()} == {
        "lossguard", "README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "PKG-INFO",
        ".gitignore",
    }  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_the_users_own_module_is_not_ours(name: str, installed: Path, tmp_path: Path) -> None:
    """A user's ``agent.py`` stays theirs, and we never import it."""
    (tmp_path / f"{name}.py").write_text("raise RuntimeError('the user\\'s own')\n")
    code = f"""
import lossguard.agent.client, lossguard.detectors.base, lossguard.probes.wire, lossguard.tui
assert lossguard.__file__.startswith({str(installed)!r}), lossguard.__file__
try:
    import {name}
except RuntimeError as error:
    print(error)
"""
    assert run(code, tmp_path, installed) == "the user's own\n"


def test_the_installed_package_finds_its_example(installed: Path, tmp_path: Path) -> None:
    """``lossguard demo`` runs a script that must be where the package is."""
    code = """
from pathlib import Path
import lossguard
print((Path(lossguard.__file__).parent / "examples" / "train_gpt.py").is_file())
"""
    assert run(code, tmp_path, installed) == "True\n"
