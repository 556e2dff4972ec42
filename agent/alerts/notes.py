"""What is to be said, in plain words: a title and a text, for whatever has no blocks of Slack's."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Literal

import msgspec

from lossguard.agent.alerts.blocks import Block
from lossguard.agent.alerts.records import Reply, Root, Saying, Story
from lossguard.agent.alerts.rendering import Post, render
from lossguard.agent.alerts.root_message import headline

Mood = Literal["critical", "warning", "good", "info"]
_EMOJI = re.compile(r":[a-z_]+: ?")
_DATE = re.compile(r"<!date\^[^|>]*\|([^>]*)>")
_BOLD = re.compile(r"(?<!\w)\*([^*\n]+)\*(?!\w)")


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """One message."""

    title: str
    text: str
    mood: Mood = "info"


def note_of(saying: Saying) -> Note | None:
    """None for what says too little where there are no threads."""
    post = render(saying, mention="", texts={})
    if not (isinstance(post, Post) and post.stands_alone):
        return None
    text = "\n\n".join(filter(None, map(_text_of, post.blocks[isinstance(saying, Root) :])))
    if not isinstance(saying, Root | Reply):
        return Note(title=f"Lossguard: {plain_words(post.text)}"[:200], text=text)
    story = saying.story
    title = f"Lossguard: {headline(story)}"[:200]
    return Note(title=title, text=text, mood=_mood_of(story))


def _mood_of(story: Story) -> Mood:
    if story.ended is not None:
        return "good" if story.is_resolved else "info"
    moods: dict[str, Mood] = {"critical": "critical", "warning": "warning"}
    return moods.get(story.severity, "info")


def plain_words(text: str) -> str:
    """Slack's way of writing, without its marks."""
    return html.unescape(_EMOJI.sub("", _BOLD.sub(r"\1", _DATE.sub(r"\1", text)))).strip()


def _text_of(block: Block) -> str:
    between = " · " if block["type"] == "context" else "\n"
    return between.join(plain_words(text["text"]) for text in _texts_of(block))


def _texts_of(block: Block) -> Iterator[Block]:
    if "text" in block:
        yield block["text"]
    yield from block.get("fields", ())
    yield from block.get("elements", ())
