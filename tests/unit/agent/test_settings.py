"""The agent's settings: read whole, or refused with the line that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from lossguard.agent.settings import AgentSettings, load_settings, parse_settings
from lossguard.errors import ConfigError
from lossguard.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(
        state=tmp_path / "s", runtime=tmp_path / "r", logs=tmp_path / "l", config=tmp_path / "c"
    )


def test_a_home_without_settings_has_the_defaults(home: Home) -> None:
    assert load_settings(home) == AgentSettings()


def test_a_key_that_there_is_none_of_is_named_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"agent\.toml:2: colour: there is no such setting"):
        parse_settings("\ncolour = 3\n", "agent.toml")


def test_what_is_no_toml_says_so_with_the_file(home: Home) -> None:
    home.config.mkdir()
    home.settings_path.write_text("[slack\n")
    with pytest.raises(ConfigError, match=r"agent\.toml: is no TOML"):
        load_settings(home)


def test_a_file_that_was_named_has_to_be_there(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOSSGUARD_AGENT_SETTINGS", str(home.config / "other.toml"))
    with pytest.raises(ConfigError, match=r"there is no file .*other\.toml"):
        load_settings(home)


def test_a_file_that_is_not_text_is_refused(home: Home) -> None:
    home.config.mkdir()
    home.settings_path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        load_settings(home)
