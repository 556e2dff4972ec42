"""E-mail, Discord, Teams, PagerDuty and a hundred others, by one URL each, through Apprise."""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from typing import TYPE_CHECKING, Any

import msgspec

from lossguard.agent.alerts.journal import Place
from lossguard.agent.alerts.notes import Mood, Note, note_of
from lossguard.agent.alerts.other_settings import APPRISE, AppriseSettings
from lossguard.agent.alerts.records import Saying
from lossguard.agent.alerts.rendering import Outgoing, Post
from lossguard.agent.alerts.secrecy import secret
from lossguard.agent.alerts.transport import NotNow
from lossguard.errors import ConfigError

if TYPE_CHECKING:
    from apprise import NotifyBase

_MOST_URLS = 8
"""Each has a thread and a journal of its own: one that fails holds up none of the others."""
_TYPES: dict[Mood, str] = {
    "critical": "failure", "warning": "warning", "good": "success", "info": "info",
}  # fmt: skip


def urls_of(settings: AppriseSettings) -> list[str]:
    """One a line; lines that begin with ``#`` are not for us. Raises ConfigError."""
    text = secret(APPRISE, settings.urls_file)
    lines = [line.strip() for line in re.split(r"[\n\r]+", text)]
    urls = [line for line in lines if line and not line.startswith("#")]
    if len(urls) > _MOST_URLS:
        raise ConfigError(f"{APPRISE} or [apprise] urls_file names more than {_MOST_URLS} URLs")
    return list(dict.fromkeys(urls))


def label_of(url: str) -> str:
    """What a URL is called in logs and metrics: its kind, and four digits that tell two apart."""
    kind = re.match(r"[a-z0-9+-]{1,20}", url.lower())
    digest = hashlib.sha256(url.encode()).hexdigest()[:4]
    return f"apprise-{kind[0] if kind else 'unknown'}-{digest}"


class ThroughApprise:
    """Messages to one URL, which cannot be answered or changed."""

    has_threads = False

    def __init__(self, url: str) -> None:
        self._url = url
        self._service: NotifyBase | None = None

    def connect(self) -> str:
        try:
            import apprise
        except ImportError:
            why = "Apprise is not installed: say `pip install 'lossguard[notify]'`"
            raise NotNow(why, is_setup=True) from None
        _keep_to_ourselves()
        self._service = apprise.Apprise.instantiate(self._url)
        if self._service is None:
            why = f"Apprise makes nothing of the URL of {label_of(self._url)}: see its list of URLs"
            raise NotNow(why, is_setup=True)
        return label_of(self._url)

    def channel_for(self, *, is_critical: bool) -> str:
        return "apprise"

    def render(self, saying: Saying, now: float) -> Post | None:
        """The text of the message is a ``Note`` as JSON; None for what says too little alone."""
        note = note_of(saying)
        return _packed(note) if note is not None else None

    def trial(self, now: float) -> Post:
        """A message to see whether messages arrive."""
        return _packed(Note(title="Lossguard", text="A test: alerts arrive here."))

    def deliver(self, what: Outgoing, channel: str, place: Place | None) -> Place | None:
        if not isinstance(what, Post):
            return None
        note = msgspec.json.decode(what.text, type=Note)
        if self._service is None:
            self.connect()
        with _Heard() as heard:
            try:
                taken = self._service is not None and self._service.notify(
                    body=note.text, title=note.title, notify_type=_TYPES[note.mood],
                    body_format="text",
                )  # fmt: skip
            except Exception as error:  # what a plug-in of Apprise's lets through
                raise NotNow(f"{label_of(self._url)} failed ({type(error).__name__})") from None
        if not taken:
            raise NotNow(f"{label_of(self._url)} did not take it{self._reason(heard.last)}")
        return None

    def _reason(self, said: str) -> str:
        """What Apprise said of it, without any part of the URL that is long enough to be a key."""
        for part in re.split(r"[/:@?&=,]+", self._url):
            if len(part) >= 6:
                said = said.replace(part, "[redacted]")
        return f" ({said[:200]})" if said else ""


def _packed(note: Note) -> Post:
    return Post(text=msgspec.json.encode(note).decode(), blocks=[])


def _keep_to_ourselves() -> None:
    """Their logs may hold addresses and keys; what went wrong is ours to say. (Both have a handler
    of their own that drops all.)"""
    for name in ("apprise", "urllib3"):
        logging.getLogger(name).propagate = False


class _Heard(logging.Handler):
    """The last warning of Apprise's in this thread."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._thread = threading.get_ident()
        self.last = ""

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self.last = record.getMessage()

    def __enter__(self) -> _Heard:
        logging.getLogger("apprise").addHandler(self)
        return self

    def __exit__(self, *_: Any) -> None:
        logging.getLogger("apprise").removeHandler(self)
