"""Secrets come from the environment or a file of one's own, and are seen nowhere."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import pytest

from lossguard.agent.alerts.secrecy import TOKEN, Redaction, redacted, secret
from lossguard.errors import ConfigError

SECRETS = (
    "xoxb-1111-2222-AbCd",
    "xoxp-1-2-3-4",
    "xoxe.xoxb-1-Mi0yLTE",
    "xoxe-1-abc",
    "xapp-1-A01-123-ff00",
    "https://hooks.slack.com/services/T0AAA/B0BBB/c0ffee",
    "hooks.slack.com/workflows/T0/A0/1/c0ffee",
)


@pytest.mark.parametrize("found", SECRETS)
def test_no_secret_is_left_in_any_text(found: str) -> None:
    for text in (found, f"token={found}!", f'{{"url": "{found}"}}', f"a\n{found}\nb {found}"):
        clean = redacted(text)
        assert found not in clean
        assert found.rpartition("-")[2].rpartition("/")[2] not in clean
    assert redacted("box-1 of xo-b, see slack.com/docs") == "box-1 of xo-b, see slack.com/docs"


@pytest.mark.parametrize("found", SECRETS)
@pytest.mark.parametrize("around", ['"{}"', "{}\n", "'{}'", "\\{}\\", "\u2028{}\t"])
def test_json_without_secrets_is_json(found: str, around: str) -> None:
    """A quoted address in a traceback must not take the quote's backslash with it."""
    told = {"message": f"ValueError: {around.format(found)}", "after": 1}
    clean = json.loads(redacted(json.dumps(told)))
    assert found not in clean["message"]
    assert clean["after"] == 1


@pytest.mark.parametrize("found", SECRETS)
def test_no_secret_is_left_in_any_log_line(found: str) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(Redaction())
    logger = logging.Logger("of-this-test")
    logger.addHandler(handler)
    logger.warning("plain %s", found)
    logger.warning("%(url)s", {"url": found})
    logger.warning(found)
    try:
        raise ValueError(found)
    except ValueError as error:
        logger.exception("trouble with %r", error)
    logger.warning("100%% harmless: %d", 7)
    assert found not in stream.getvalue()
    assert "ValueError: [redacted]" in stream.getvalue().replace("https://", "")
    assert "100% harmless: 7" in stream.getvalue()


def test_the_environment_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, " xoxb-1 \n")
    assert secret(TOKEN, str(tmp_path / "nowhere")) == "xoxb-1"


def test_a_file_of_ones_own_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    path = tmp_path / "token"
    path.write_text("xoxb-2\n")
    path.chmod(0o600)
    assert secret(TOKEN, str(path)) == "xoxb-2"
    assert secret(TOKEN, "") == ""


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_file_that_others_may_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    path = tmp_path / "token"
    path.write_text("xoxb-2\n")
    path.chmod(mode)
    with pytest.raises(ConfigError, match=r"chmod 600") as caught:
        secret(TOKEN, str(path))
    assert "xoxb" not in str(caught.value)


def test_a_file_that_is_missing_or_empty_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    with pytest.raises(ConfigError, match="nowhere"):
        secret(TOKEN, str(tmp_path / "nowhere"))
    empty = tmp_path / "empty"
    empty.touch(0o600)
    with pytest.raises(ConfigError, match="is empty"):
        secret(TOKEN, str(empty))
