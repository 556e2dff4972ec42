"""Slack's blocks, built so that no limit of Slack's can be broken."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

Block: TypeAlias = dict[str, Any]

MAX_BLOCKS = 50
MAX_HEADER = 150
MAX_SECTION = 3000
MAX_FIELDS, MAX_FIELD = 10, 2000
MAX_CONTEXT, MAX_CONTEXT_TEXT = 10, 2000
MAX_TEXT = 3000
"""Of the plain words for notifications; Slack recommends no more than 4000."""
BUDGET = 10_000
"""Characters of all blocks as JSON. Slack refuses more than about 13,200, and does not say so."""
_HALF_ENTITY = re.compile(r"&[a-z]{0,3}$")


def escaped(text: str) -> str:
    """Words of others: what Slack would take for a mention or a link stays words."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def cut(text: str, most: int) -> str:
    """At most so many characters; an ellipsis says that there were more."""
    if len(text) <= most:
        return text
    return _HALF_ENTITY.sub("", text[: most - 1]) + "…"


def code(text: str) -> str:
    """Inline, for a command to type."""
    return f"`{escaped(text.replace('`', chr(39)))}`"


def listing(text: str, most: int) -> str:
    """Lines as they are, in a box."""
    return f"```{cut(escaped(text.replace('```', chr(39) * 3)), most - 6)}```"


def header(text: str) -> Block:
    return {
        "type": "header",
        "text": {"type": "plain_text", "text": cut(text, MAX_HEADER), "emoji": True},
    }


def section(text: str) -> Block:
    return {"type": "section", "text": _mrkdwn(cut(text, MAX_SECTION))}


def fields(texts: Sequence[str]) -> Block:
    """Two columns."""
    shown = [_mrkdwn(cut(text, MAX_FIELD)) for text in texts[:MAX_FIELDS]]
    return {"type": "section", "fields": shown}


def context(texts: Sequence[str]) -> Block:
    """Small and grey."""
    shown = [_mrkdwn(cut(text, MAX_CONTEXT_TEXT)) for text in texts[:MAX_CONTEXT]]
    return {"type": "context", "elements": shown}


def fitted(blocks: Iterable[Block]) -> list[Block]:
    """As many as Slack takes in one message, the first ones; the last line says so if some went."""
    rest = context(["There is more than fits here."])
    kept: list[Block] = []
    room = BUDGET - len(json.dumps(rest))
    for block in blocks:
        size = len(json.dumps(block)) + 2
        if size > room or len(kept) == MAX_BLOCKS - 1:
            return [*kept, rest]
        kept.append(block)
        room -= size
    return kept


def _mrkdwn(text: str) -> Block:
    return {"type": "mrkdwn", "text": text or " "}
