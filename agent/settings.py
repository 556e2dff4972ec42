"""``agent.toml``: what one user's agent does besides watching, the same for every run.

A policy says what is done to a run, and travels with it; these settings stay with the agent. Every
table is a record of its own module, and one field here. Secrets stand in no file of settings.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from pathlib import Path
from typing import Any

import msgspec

from lossguard.agent.alerts.other_settings import AppriseSettings, WebhookSettings
from lossguard.agent.alerts.settings import AlertSettings, SlackSettings
from lossguard.agent.dead_man_settings import DeadManSettings
from lossguard.agent.listen_settings import ListenSettings
from lossguard.agent.otel.settings import OtelSettings
from lossguard.agent.prometheus.settings import PrometheusSettings
from lossguard.agent.retention_settings import RetentionSettings
from lossguard.agent.toml_lines import line_of, read_text
from lossguard.errors import ConfigError
from lossguard.home import Home

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_SETTINGS_BYTES = 1 << 18
_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_UNKNOWN = re.compile(r"unknown field `(?P<key>[^`]*)`")


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of it; every table has defaults, and a missing file is an empty one."""

    listen: ListenSettings = ListenSettings()
    slack: SlackSettings = SlackSettings()
    alerts: AlertSettings = AlertSettings()
    webhook: WebhookSettings = WebhookSettings()
    apprise: AppriseSettings = AppriseSettings()
    retention: RetentionSettings = RetentionSettings()
    prometheus: PrometheusSettings = PrometheusSettings()
    otel: OtelSettings = OtelSettings()
    dead_man: DeadManSettings = DeadManSettings()


def load_settings(home: Home) -> AgentSettings:
    """The settings of this home: ``LOSSGUARD_AGENT_SETTINGS``, else its ``agent.toml``.

    Raises ConfigError, which names the file, the line and the key.
    """
    named = os.environ.get("LOSSGUARD_AGENT_SETTINGS")
    path = Path(named).expanduser() if named else home.settings_path
    try:
        text = read_text(path, MAX_SETTINGS_BYTES)
    except FileNotFoundError:
        if named:
            raise ConfigError(f"LOSSGUARD_AGENT_SETTINGS: there is no file {path}") from None
        return AgentSettings()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    return parse_settings(text, str(path))


def parse_settings(text: str, label: str) -> AgentSettings:
    """The settings that a TOML document says; ``label`` names it in errors. Raises ConfigError."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{label}: is no TOML: {error or 'nested too deep'}") from error
    try:
        return msgspec.convert(document, AgentSettings)
    except msgspec.ValidationError as error:
        raise ConfigError(_explained(str(error), text, label)) from error


def _explained(words: str, text: str, label: str) -> str:
    place = _PATH.search(words)
    path = re.split(r"[.\[\]]+", place["path"].rstrip("]")) if place and place["path"] else []
    said = _PATH.sub("", words)
    if (unknown := _UNKNOWN.search(words)) is not None:
        near = difflib.get_close_matches(unknown["key"], _keys_at(path), 1)
        path = [*path, unknown["key"]]
        said = "there is no such setting" + (f"; did you mean {near[0]!r}?" if near else "")
    line = line_of(text, tuple(path))
    where = f"{label}:{line}" if line is not None else label
    return f"{where}: {'.'.join(path) or 'the file'}: {said[:1].lower()}{said[1:]}"


def _keys_at(path: list[str]) -> list[str]:
    """The settings that there are in a table."""
    kind: Any = AgentSettings
    for part in path:
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
        kind = fields.get(part)
        if not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
            return []
    return [field.encode_name for field in msgspec.structs.fields(kind)]
