"""What runs before a script: it waits for torch, and is not there otherwise."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from lossguard.probes import leaving, startup, tracebacks

STARTUP = Path(startup.__file__).with_name("lossguard-startup.pth")


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process has not imported torch, and forgets afterwards what it did instead."""
    for name in [name for name in sys.modules if name == "torch" or name.startswith("torch.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield
    startup.forget()
    sys.modules.pop("torch", None)
    importlib.invalidate_caches()


def fake_torch(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A module named torch, found before the real one."""
    (folder / "torch.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))


def test_it_calls_when_the_import_is_over(
    no_torch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once; and then nothing of it is left, neither a finder nor a changed loader."""
    fake_torch(tmp_path, monkeypatch, "over = True")
    before = list(sys.meta_path)
    seen: list[bool] = []
    startup.when_torch_is_imported(lambda: seen.append(sys.modules["torch"].over))
    assert len(sys.meta_path) == len(before) + 1
    import torch

    assert seen == [True]
    assert sys.meta_path == before
    assert "exec_module" not in vars(torch.__loader__)
    importlib.reload(torch)
    assert seen == [True]


def test_asking_whether_torch_is_there_is_not_an_import(
    no_torch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frameworks ask ``find_spec`` first: the import that follows is still heard."""
    fake_torch(tmp_path, monkeypatch, "")
    seen: list[int] = []
    startup.when_torch_is_imported(lambda: seen.append(1))
    assert importlib.util.find_spec("torch") is not None
    assert seen == []
    importlib.import_module("torch")
    assert seen == [1]


def test_an_import_that_fails_is_the_scripts_and_the_next_one_counts(
    no_torch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its traceback has no frame of ours."""
    fake_torch(tmp_path, monkeypatch, "raise ImportError('no library')")
    seen: list[int] = []
    startup.when_torch_is_imported(lambda: seen.append(1))
    with pytest.raises(ImportError, match="no library") as failed:
        import torch  # noqa: F401
    files = [frame.filename for frame in traceback.extract_tb(failed.tb)]
    assert files == [__file__, str(tmp_path / "torch.py")]
    assert seen == []
    (tmp_path / "torch.py").write_text("# repaired")
    importlib.invalidate_caches()
    importlib.import_module("torch")
    assert seen == [1]


def test_what_fails_in_us_is_not_the_scripts(
    no_torch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_torch(tmp_path, monkeypatch, "there = 1")

    def fails() -> None:
        raise RuntimeError("ours")

    startup.when_torch_is_imported(fails)
    assert importlib.import_module("torch").there == 1


def test_the_later_of_two_stands(
    no_torch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``LOSSGUARD=1 lossguard run --guard script.py`` is the latter."""
    fake_torch(tmp_path, monkeypatch, "")
    seen: list[str] = []
    startup.when_torch_is_imported(lambda: seen.append("environment"))
    startup.when_torch_is_imported(lambda: seen.append("command line"))
    importlib.import_module("torch")
    assert seen == ["command line"]


@pytest.mark.parametrize("setting", ["", "0", "off", " No "])
def test_off_is_off(setting: str, no_torch: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOSSGUARD", setting)
    before = list(sys.meta_path)
    startup.arm()
    assert sys.meta_path == before


@pytest.mark.parametrize("setting", ["1", "guard", "/a/policy.toml"])
def test_on_waits_for_torch(setting: str, no_torch: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOSSGUARD", setting)
    startup.arm()
    assert isinstance(sys.meta_path[0], startup.TorchImport)


def test_the_line_of_the_start_up_file_loads_nothing_heavy() -> None:
    """It is one line, as ``site`` wants it; switched off it loads nothing of ours, and switched on
    no more than this module."""
    (line,) = STARTUP.read_text().splitlines()
    assert line.startswith("import ")
    loaded = {}
    for setting in ("0", "1"):
        ended = subprocess.run(
            [sys.executable, "-c", f"{line}\nimport sys; print(*sys.modules)"],
            env={**os.environ, "LOSSGUARD": setting},
            capture_output=True,
            text=True,
            check=True,
        )
        loaded[setting] = set(ended.stdout.split())
    assert not any(name.startswith("lossguard") for name in loaded["0"])
    assert {name for name in loaded["1"] if name.startswith("lossguard")} == {
        "lossguard", "lossguard.probes", "lossguard.probes.startup",
    }  # fmt: skip
    assert not loaded["1"] & {"torch", "numpy", "zmq", "msgspec", "logging", "asyncio"}


# --- how a process ends ----------------------------------------------------------------------


class Resident:
    """Somebody who wants to know."""

    def __init__(self) -> None:
        self.codes: list[int] = []

    def before_leaving(self, code: int) -> None:
        self.codes.append(code)


@pytest.fixture
def leaves(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """``os._exit`` that does not; the codes it was called with."""
    codes: list[int] = []
    # Whatever an earlier test has left alive is not told, and has not put its own in place.
    monkeypatch.setattr(leaving, "_residents", [])
    monkeypatch.setattr(leaving, "_in_place", False)
    monkeypatch.setattr(leaving, "_original", leaving._original)
    monkeypatch.setattr(os, "_exit", codes.append)
    return codes


def test_leaving_is_told_and_then_done(leaves: list[int]) -> None:
    """Also where somebody's own goodbye fails."""

    class Fails(Resident):
        def before_leaving(self, code: int) -> None:
            raise RuntimeError

    one, other = Fails(), Resident()
    before = os._exit
    leaving.tell(one)
    leaving.tell(other)
    vars(os)["_exit"](3)
    assert (other.codes, leaves) == ([3], [3])
    leaving.tell_no_more(one)
    leaving.tell_no_more(other)
    leaving.tell_no_more(other)
    assert os._exit is before


def test_one_that_is_dropped_without_a_word_leaves_nothing(leaves: list[int]) -> None:
    before = os._exit
    resident = Resident()
    leaving.tell(resident)
    assert os._exit is not before
    del resident
    assert vars(os)["_exit"] is before


def test_a_wrapper_of_somebody_else_over_ours_stays(
    leaves: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And calls the original once, told or not, also after we have come back."""
    resident = Resident()
    leaving.tell(resident)
    ours = os._exit
    monkeypatch.setattr(os, "_exit", lambda code: ours(code))
    leaving.tell_no_more(resident)
    leaving.tell(resident)
    vars(os)["_exit"](1)
    assert (resident.codes, leaves) == ([1], [1])
    monkeypatch.setattr(os, "_exit", ours)
    leaving.tell_no_more(resident)
    assert vars(os)["_exit"] == leaves.append


@pytest.mark.parametrize(("code", "is_it"), [(None, 0), (0, 0), (3, 3), ("text", 1), (True, 1)])
def test_what_a_process_exits_with(code: object, is_it: int) -> None:
    assert leaving.code_of(SystemExit(code)) == is_it


# --- tracebacks ------------------------------------------------------------------------------


def test_frames_of_ours_are_dropped_where_we_only_passed_through() -> None:
    """Not those in which we raised ourselves: an argument of ours that makes no sense."""

    def fails() -> None:
        raise ValueError

    through = {"__file__": "x", "fails": fails}
    exec(compile("def call():\n fails()\n", tracebacks._OURS + "patching.py", "exec"), through)
    through_call = through["call"]
    try:
        through_call()  # type: ignore[operator]
    except ValueError as error:
        kept = tracebacks.without_ours(error.__traceback__)
    assert [frame.name for frame in traceback.extract_tb(kept)] == [
        "test_frames_of_ours_are_dropped_where_we_only_passed_through", "fails",
    ]  # fmt: skip
    try:
        leaving.tell(7)  # type: ignore[arg-type]
    except TypeError as error:
        kept = tracebacks.without_ours(error.__traceback__)
    assert traceback.extract_tb(kept)[-1].name == "tell"
