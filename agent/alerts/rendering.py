"""What is to be said, as Slack wants it. Pure: frozen records in, plain data out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import msgspec

from lossguard.agent.alerts import wording
from lossguard.agent.alerts.blocks import (
    MAX_TEXT,
    Block,
    code,
    cut,
    escaped,
    fitted,
    header,
    section,
)
from lossguard.agent.alerts.records import (
    Aside,
    Digest,
    HeldBack,
    IncidentNews,
    Plot,
    Reply,
    Root,
    RunNotice,
    Saying,
    Update,
)
from lossguard.agent.alerts.replies import reply_blocks, summary
from lossguard.agent.alerts.root_message import headline, root_blocks
from lossguard.agent.alerts.secrecy import redacted

_ENDS = {"running": "has started", "finished": "has finished", "stopped": "was stopped",
         "failed": "failed", "died": "died"}  # fmt: skip


class Post(msgspec.Struct, frozen=True, kw_only=True, tag="post"):
    """A message."""

    text: str
    """For notifications, and where blocks cannot be shown."""
    blocks: list[Block]
    is_critical: bool = False
    address: str = ""
    """What others call it by, for replies and changes."""
    thread: str = ""
    """The address of the message that it is a reply to."""
    is_loud: bool = False
    stands_alone: bool = True
    """Whether it says enough where there are no threads."""


class Edit(msgspec.Struct, frozen=True, kw_only=True, tag="edit"):
    """What a message that was sent should read."""

    address: str
    text: str
    blocks: list[Block]


class Picture(msgspec.Struct, frozen=True, kw_only=True, tag="picture"):
    """To be drawn, and put into a thread."""

    thread: str
    news: IncidentNews


class Whisper(msgspec.Struct, frozen=True, kw_only=True, tag="whisper"):
    """A message that one person sees, once, and nobody keeps."""

    channel: str
    user: str
    text: str


Outgoing: TypeAlias = Post | Edit | Picture | Whisper


def mention_of(names: Sequence[str]) -> str:
    """As Slack writes calls for attention."""
    marks = {"S": "<!subteam^{}>", "U": "<@{}>", "W": "<@{}>"}
    return " ".join(marks.get(name[:1], "<!{}>").format(name) for name in names)


def render(
    saying: Saying, *, mention: str, texts: Mapping[str, str], buttons: Block | None = None
) -> Outgoing:
    """``mention``: who is called for what is critical; ``texts``: files of the bundle, by name;
    ``buttons``: of a root message."""
    if isinstance(saying, Aside):
        told = saying.refusal
        return Whisper(channel=told.channel, user=told.user, text=redacted(told.words))
    out = _rendered(saying, mention, texts, buttons)
    if isinstance(out, Picture):
        return out
    text, blocks = redacted(cut(out.text, MAX_TEXT)), _clean(out.blocks)
    return msgspec.structs.replace(out, text=text, blocks=blocks)


def _rendered(
    saying: Root | Update | Reply | Plot | Digest | HeldBack | RunNotice,
    mention: str,
    texts: Mapping[str, str],
    buttons: Block | None,
) -> Post | Edit | Picture:
    if isinstance(saying, Plot):
        return Picture(thread=saying.address, news=saying.news)
    if isinstance(saying, Root):
        called = mention if saying.story.severity == "critical" else ""
        return Post(
            text=_notification(saying),
            blocks=root_blocks(saying.story, called, buttons=buttons),
            is_critical=saying.is_critical,
            address=saying.address,
        )
    if isinstance(saying, Update):
        moved = ":arrow_right: It got worse: this goes on in the channel for what is critical."
        return Edit(
            address=saying.address,
            text=_notification(saying),
            blocks=root_blocks(
                saying.story, moved=moved if saying.has_moved else "", buttons=buttons
            ),
        )
    if isinstance(saying, Reply):
        loud = saying.is_loud and saying.story.severity == "critical"
        return Post(
            text=summary(saying),
            blocks=reply_blocks(saying, texts, mention if loud else ""),
            is_critical=saying.is_critical,
            thread=saying.address,
            is_loud=saying.is_loud,
            stands_alone=saying.is_loud or saying.topic == "resolved",
        )
    text, blocks = _standing_alone(saying)
    return Post(text=text, blocks=fitted(blocks))


def _notification(saying: Root | Update) -> str:
    story = saying.story
    state = story.severity if story.ended is None else story.outcome
    return escaped(f"{state}: {headline(story)}: {story.news.line.message}")


def _standing_alone(saying: Digest | HeldBack | RunNotice) -> tuple[str, list[Block]]:
    if isinstance(saying, Digest):
        lines = [
            f"• {code(name)}: " + ", ".join(f"{n} {symptom}" for symptom, n in sorted(of.items()))
            for name, of in sorted(saying.counts.items())
        ]
        head = f"Small things since {wording.moment(saying.since)}"
        return "A digest of small things", [section("\n".join((f"*{head}*", *lines)))]
    if isinstance(saying, HeldBack):
        many = "1 message" if saying.count == 1 else f"{saying.count} messages"
        text = (
            f":mute: {many} about {escaped(saying.name)} "
            f"{'was' if saying.count == 1 else 'were'} held back: the limit of an hour was "
            f"reached. All of it: {code(f'lossguard incidents {saying.run}')}"
        )
        return text, [section(text)]
    news = saying.news
    text = f"Run {escaped(news.name)} {_ENDS.get(news.state, news.state)}"
    at = f" at step {news.step:,}" if news.step else ""
    return text, [section(f"{text}{at} · {code(news.run)}")]


def _clean(blocks: list[Block]) -> list[Block]:
    """Without secrets, wherever they came from."""
    raw = msgspec.json.encode(blocks).decode()
    clean: list[Block] = msgspec.json.decode(redacted(raw))
    return clean


def bare(saying: Saying) -> Post | None:
    """At least that there is trouble, where the rest cannot be put into words."""
    if not isinstance(saying, Root):
        return None
    line = saying.story.news.line
    text = f"{line.severity} {line.symptom} in run {line.run}: lossguard show {line.id}"
    address = saying.address
    return Post(text=redacted(text), blocks=[], is_critical=saying.is_critical, address=address)


def plain(text: str, address: str) -> Post:
    """A message of a few words."""
    return Post(text=text, blocks=[header("Lossguard"), section(escaped(text))], address=address)
