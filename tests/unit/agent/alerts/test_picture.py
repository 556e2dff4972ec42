"""The process that draws: it is given what it needs, and no secrets."""

from __future__ import annotations

import json
import sys

import pytest

from lossguard.agent.alerts import other_settings, picture, secrecy
from lossguard.agent.dead_man_settings import URL as DEAD_MAN_URL
from lossguard.agent.otel.settings import HEADERS
from tests.support.incidents_told import incident

SECRETS = (
    secrecy.TOKEN,
    secrecy.WEBHOOK,
    secrecy.APP_TOKEN,
    other_settings.URL,
    other_settings.KEY,
    other_settings.APPRISE,
    DEAD_MAN_URL,
    HEADERS,
)


def test_no_secret_of_the_agent_reaches_the_process_that_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor one of anybody else; where the fonts are it does learn."""
    for name in (*SECRETS, "LOSSGUARD_KEY_FILE", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hidden")
    monkeypatch.setenv("HOME", "/somewhere")
    said = "import json, os, sys; sys.stdout.write(json.dumps(dict(os.environ)))"
    monkeypatch.setattr(picture, "own_python", lambda module: [sys.executable, "-c", said])
    got: dict[str, str] = json.loads(picture.picture_of(incident()))
    assert got["HOME"] == "/somewhere"
    assert "hidden" not in got.values()
    assert not [name for name in got if name.startswith("LOSSGUARD")]
