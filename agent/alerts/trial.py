"""A message to see whether messages arrive: by the settings, the secrets and the code of alerts."""

from __future__ import annotations

import logging
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from lossguard.agent.alerting import is_wanted
from lossguard.agent.alerts.delivery import Delivery
from lossguard.agent.alerts.journal import Journal
from lossguard.agent.alerts.records import IncidentNews
from lossguard.agent.alerts.rendering import Outgoing, Picture, plain
from lossguard.agent.alerts.secrecy import TOKEN, WEBHOOK
from lossguard.agent.alerts.targets import Target, targets_of
from lossguard.agent.feed import IncidentLine
from lossguard.agent.history import MetricHistory
from lossguard.agent.settings import load_settings
from lossguard.errors import ExitCode
from lossguard.home import Home

_PATIENCE_S = 30.0


@dataclass(frozen=True)
class Trial:
    """What came of it with one target. ``why`` is empty where all arrived."""

    target: str
    sent: int
    of: int
    why: str
    exit_code: ExitCode


def send_trials(home: Home) -> list[Trial]:
    """Up to half a minute for each target. Raises ConfigError for settings that make no sense."""
    settings = load_settings(home)
    if not is_wanted(settings):
        why = (
            f"nothing is set up: set {TOKEN} and channel in the table [slack] of "
            f"{home.settings_path}, or set {WEBHOOK}; or see docs/alerts.md for other ways"
        )
        return [Trial("nobody", 0, 0, why, ExitCode.CONFIG)]
    logging.getLogger().addHandler(logging.NullHandler())  # what is logged comes back as ``why``
    return [_send(target) for target in targets_of(settings)]


def _send(target: Target) -> Trial:
    with tempfile.TemporaryDirectory(prefix="lossguard-") as folder:
        journal = Journal(Path(folder) / "trial.db", time.time())
        try:
            messages = _messages(target)
            journal.intend(messages, time.time())
            delivery = Delivery(journal, target.transport)
            return _tried(target.name, journal, delivery, len(messages))
        finally:
            journal.close()


def _messages(target: Target) -> list[Outgoing]:
    if target.trial is not None:
        return [target.trial(time.time())]
    message = plain("A test: alerts arrive here.", "trial")
    picture = Picture(thread="trial", news=_example())
    return [message, picture] if target.transport.has_threads else [message]


def _tried(name: str, journal: Journal, delivery: Delivery, num: int) -> Trial:
    deadline = time.monotonic() + _PATIENCE_S
    while journal.waiting and time.monotonic() < deadline:
        if delivery.turn(time.time(), time.monotonic()):
            continue
        if delivery.state.state == "failing":
            return Trial(name, delivery.state.sent, num, delivery.state.why, ExitCode.CONFIG)
        time.sleep(0.1)
    state = delivery.state
    if journal.waiting:
        why = state.why or "no answer in time"
        return Trial(name, state.sent, num, why, ExitCode.UNREACHABLE)
    if state.sent < num:
        return Trial(name, state.sent, num, state.last_refusal, ExitCode.CONFIG)
    return Trial(name, state.sent, num, "", ExitCode.OK)


def _example() -> IncidentNews:
    """A loss that jumps."""
    history = MetricHistory()
    for step in range(200):
        usual = 2.0 + math.exp(-step / 60) + 0.03 * math.sin(7.0 * step)
        history.add(step, usual + (3.0 * math.exp((160 - step) / 8) if step >= 160 else 0.0))
    line = IncidentLine(
        id="test",
        run="test",
        state="resolved",
        symptom="loss_spike",
        severity="warning",
        metric="loss",
        onset_step=160,
        detected_step=160,
        end_step=190,
        score=3.0,
        message="an example",
    )
    return IncidentNews(line=line, name="a test", acts=False, series=(history.series("loss"),))
