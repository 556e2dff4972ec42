"""What Slack takes for blocks: it refuses what is too long, too many, or not known to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

MAX_BLOCKS = 50
_MAX_ALL = 13_200
"""Characters of all blocks; not documented, but enforced (``msg_blocks_too_long``)."""


class Invalid(Exception):
    """``code`` is Slack's error, the words are those of its ``response_metadata``."""

    def __init__(self, code: str, words: str) -> None:
        super().__init__(words)
        self.code = code


def check_blocks(blocks: Any) -> None:
    """Raises Invalid."""
    _want(isinstance(blocks, list), "blocks is no list")
    _want(len(blocks) <= MAX_BLOCKS, f"no more than {MAX_BLOCKS} items allowed")
    for number, block in enumerate(blocks):
        at = f"/blocks/{number}"
        _want(isinstance(block, dict), f"{at} is no object")
        check = _BLOCKS.get(block.get("type", ""))
        if check is None:
            raise Invalid("invalid_blocks", f"{at}: unsupported type {block.get('type')!r}")
        check(block, at)
    if len(json.dumps(blocks)) > _MAX_ALL:
        raise Invalid("msg_blocks_too_long", "the blocks are too long")


def _header(block: dict[str, Any], at: str) -> None:
    _fields(block, at, {"type", "text"}, {"block_id"})
    _text(block["text"], f"{at}/text", 150, {"plain_text"})


def _section(block: dict[str, Any], at: str) -> None:
    _fields(block, at, {"type"}, {"text", "fields", "accessory", "block_id", "expand"})
    _want("text" in block or "fields" in block, f"{at}: text or fields is required")
    if "text" in block:
        _text(block["text"], f"{at}/text", 3000)
    fields = block.get("fields", [])
    _want(len(fields) <= 10 and (fields or "fields" not in block), f"{at}/fields: 1 to 10")
    for number, field in enumerate(fields):
        _text(field, f"{at}/fields/{number}", 2000)


def _context(block: dict[str, Any], at: str) -> None:
    _fields(block, at, {"type", "elements"}, {"block_id"})
    _want(1 <= len(block["elements"]) <= 10, f"{at}/elements: 1 to 10")
    for number, element in enumerate(block["elements"]):
        _text(element, f"{at}/elements/{number}", 2000)


def _divider(block: dict[str, Any], at: str) -> None:
    _fields(block, at, {"type"}, {"block_id"})


def _actions(block: dict[str, Any], at: str) -> None:
    _fields(block, at, {"type", "elements"}, {"block_id"})
    _want(1 <= len(block["elements"]) <= 25, f"{at}/elements: 1 to 25")
    seen = set()
    for number, element in enumerate(block["elements"]):
        _button(element, f"{at}/elements/{number}")
        _want(element.get("action_id") not in seen, f"{at}: action_id is not unique")
        seen.add(element.get("action_id"))


def _button(element: Any, at: str) -> None:
    _want(isinstance(element, dict) and element.get("type") == "button", f"{at}: no button")
    known = {"action_id", "value", "url", "style", "confirm", "accessibility_label"}
    _fields(element, at, {"type", "text"}, known)
    _text(element["text"], f"{at}/text", 75, {"plain_text"})
    _want(len(element.get("action_id", "x")) <= 255, f"{at}/action_id: too long")
    _want(len(element.get("value", "x")) <= 2000, f"{at}/value: too long")
    _want(len(element.get("url", "")) <= 3000, f"{at}/url: too long")
    _want(element.get("style", "primary") in ("primary", "danger"), f"{at}/style: unknown")
    if "confirm" in element:
        confirm = element["confirm"]
        _fields(confirm, f"{at}/confirm", {"title", "text", "confirm", "deny"}, {"style"})
        _text(confirm["title"], f"{at}/confirm/title", 100, {"plain_text"})
        _text(confirm["text"], f"{at}/confirm/text", 300)
        for name in ("confirm", "deny"):
            _text(confirm[name], f"{at}/confirm/{name}", 30, {"plain_text"})


_BLOCKS: dict[str, Callable[[dict[str, Any], str], None]] = {
    "header": _header, "section": _section, "context": _context, "divider": _divider,
    "actions": _actions,
}  # fmt: skip


def _text(text: Any, at: str, most: int, kinds: frozenset[str] | set[str] = frozenset()) -> None:
    _want(isinstance(text, dict), f"{at} is no text object")
    kind = text.get("type")
    _want(kind in (kinds or {"plain_text", "mrkdwn"}), f"{at}: unsupported type {kind!r}")
    _fields(text, at, {"type", "text"}, {"emoji"} if kind == "plain_text" else {"verbatim"})
    words = text["text"]
    _want(isinstance(words, str) and words != "", f"{at}: must be at least 1 character")
    _want(len(words) <= most, f"{at}: must be less than {most + 1} characters")


def _fields(thing: dict[str, Any], at: str, needed: set[str], others: set[str]) -> None:
    for name in needed - set(thing):
        raise Invalid("invalid_blocks", f"{at}: missing required field: {name}")
    for name in set(thing) - needed - others:
        raise Invalid("invalid_blocks", f"{at}: invalid additional property: {name}")


def _want(is_so: Any, words: str) -> None:
    if not is_so:
        raise Invalid("invalid_blocks", words)
