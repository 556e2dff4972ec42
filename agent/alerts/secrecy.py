"""Secrets: where they come from, and that they end up nowhere else."""

from __future__ import annotations

import logging
import os
import re
import stat
from pathlib import Path

from lossguard.errors import ConfigError

TOKEN, WEBHOOK = "LOSSGUARD_SLACK_BOT_TOKEN", "LOSSGUARD_SLACK_WEBHOOK_URL"
APP_TOKEN = "LOSSGUARD_SLACK_APP_TOKEN"
_MAX_BYTES = 4096
_SECRETS = re.compile(
    r"xox[a-z](?:\.xox[a-z])?-[A-Za-z0-9.%_-]*|xapp-[A-Za-z0-9.%_-]*|whsec_[A-Za-z0-9+/=]+"
    r"|(?:https?://)?hooks\.slack(?:-gov)?\.com/[^\s\"'<>)\]}\\]*"
)
_formatter = logging.Formatter()


def redacted(text: object) -> str:
    """The same words without what opens a door to Slack. JSON stays JSON."""
    return _SECRETS.sub("[redacted]", str(text))


class Redaction(logging.Filter):
    """No secret gets past it into a log, in words, arguments or tracebacks."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        clean = redacted(message)
        if clean != message:
            record.msg, record.args = clean, ()
        if record.exc_info and not record.exc_text:
            record.exc_text = _formatter.formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = redacted(record.exc_text)
        return True


def redact_logs() -> None:
    """From now on nothing that this process logs has a Slack secret in it."""
    for handler in logging.getLogger().handlers:
        if not any(isinstance(known, Redaction) for known in handler.filters):
            handler.addFilter(Redaction())


def secret(variable: str, file: str) -> str:
    """From the environment, else from a file; empty where neither is named.

    Raises ConfigError for a file that others may read, or that cannot be read.
    """
    if value := os.environ.get(variable, "").strip():
        return value
    if not file:
        return ""
    path = Path(file).expanduser()
    try:
        with path.open("rb") as opened:
            info = os.fstat(opened.fileno())
            raw = opened.read(_MAX_BYTES)
    except OSError as error:
        raise ConfigError(f"{path}: the secret cannot be read ({error.strerror})") from error
    if stat.S_IMODE(info.st_mode) & 0o077 or info.st_uid not in (0, os.getuid()):
        raise ConfigError(f"{path}: others may read this secret; say: chmod 600 {path}")
    value = raw.decode(errors="replace").strip()
    if not value:
        raise ConfigError(f"{path}: is empty; it should hold what {variable} would")
    return value
