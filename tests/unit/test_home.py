"""Where Lossguard keeps things, and whom it trusts with it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lossguard.errors import ConfigError
from lossguard.home import IPC_PATH_MAX, Home, find_home


def test_lossguard_home_holds_everything(home: Home) -> None:
    """One variable moves state, sockets and logs."""
    root = Path(os.environ["LOSSGUARD_HOME"])
    assert {home.state.parent, home.runtime.parent, home.logs.parent} == {root}
    assert home.probe_endpoint.startswith(f"ipc://{root}")


def test_directories_are_made_private(home: Home) -> None:
    """Also one that was open to others before."""
    home.runtime.mkdir(parents=True, mode=0o755)
    home.runtime.chmod(0o755)
    home.create().create()
    for path in (home.state, home.runtime, home.logs):
        assert path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("length", [10, 60, 80, 120, 250])
def test_a_socket_path_is_never_too_long(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    """A deep home gets a short runtime directory, the same one each time."""
    monkeypatch.setenv("LOSSGUARD_HOME", "/tmp/" + "d" * length)
    home = find_home()
    for endpoint in (home.probe_endpoint, home.viewer_endpoint):
        assert len(endpoint.removeprefix("ipc://")) < IPC_PATH_MAX
    assert find_home() == home
    monkeypatch.setenv("LOSSGUARD_HOME", "/tmp/" + "e" * length)
    assert find_home().runtime != home.runtime


def test_a_short_directory_has_no_parent_that_could_be_somebody_elses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It lies directly in /tmp, where only its owner can move it."""
    monkeypatch.setenv("LOSSGUARD_HOME", "/tmp/" + "d" * 200)
    assert find_home().runtime.parent == Path("/tmp")


def test_a_link_in_place_of_the_runtime_directory_is_refused(home: Home, tmp_path: Path) -> None:
    """Whoever made the link could listen in."""
    home.runtime.parent.mkdir(parents=True, exist_ok=True)
    home.runtime.symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="is a link or belongs to"):
        home.create()


def test_somebody_elses_directory_is_refused(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says whose it is and what to do."""
    home.create()
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    with pytest.raises(ConfigError, match=f"belongs to uid {mine}, not to you.*LOSSGUARD_HOME"):
        home.create()


def test_a_directory_that_cannot_be_made_is_a_clear_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file stands in the way."""
    (tmp_path / "state").touch()
    monkeypatch.setenv("LOSSGUARD_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="cannot be made a directory"):
        find_home().create()


def test_without_it_the_platform_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets go where the system keeps them, or to a directory of this user in /tmp."""
    monkeypatch.delenv("LOSSGUARD_HOME", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert find_home().runtime == Path("/run/user/7/lossguard")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert find_home().runtime.name == f"lossguard-{os.getuid()}"
