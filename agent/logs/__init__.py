"""Reading the logs that training runs leave: one module a format, all of them streamed.

``find_places`` says what there is behind an argument, ``Place.open`` tells by the content what it
is, and iterating over a ``Log`` gives observations, as a live run does.
"""

from __future__ import annotations

from lossguard.agent.logs.account import Account
from lossguard.agent.logs.finding import Place, find_places
from lossguard.agent.logs.log import Log, LogOptions, NoMetrics
from lossguard.agent.logs.names import is_metric
from lossguard.agent.logs.recognition import open_logs
from lossguard.agent.logs.source import Troubles
from lossguard.agent.logs.steps import Turn

__all__ = [
    "Account",
    "Log",
    "LogOptions",
    "NoMetrics",
    "Place",
    "Troubles",
    "Turn",
    "find_places",
    "is_metric",
    "open_logs",
]
