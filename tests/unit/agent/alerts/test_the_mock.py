"""The Slack of these tests refuses what the real one refuses."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.slack_blocks import Invalid, check_blocks


def text(length: int = 1, kind: str = "mrkdwn") -> dict[str, Any]:
    return {"type": kind, "text": "x" * length}


def section(length: int = 1) -> dict[str, Any]:
    return {"type": "section", "text": text(length)}


def button(length: int = 1, **more: Any) -> dict[str, Any]:
    return {"type": "button", "text": text(length, "plain_text"), "action_id": "a", **more}


def actions(*buttons: dict[str, Any]) -> dict[str, Any]:
    return {"type": "actions", "elements": list(buttons)}


def confirm(length: int) -> dict[str, Any]:
    plain = text(5, "plain_text")
    return {"title": plain, "text": text(length), "confirm": plain, "deny": plain}


@pytest.mark.parametrize(
    ("taken", "refused"),
    [
        ([section()] * 50, [section()] * 51),
        ([section(3000)], [section(3001)]),
        ([section(1)], [section(0)]),
        ([{"type": "header", "text": text(150, "plain_text")}],
         [{"type": "header", "text": text(151, "plain_text")}]),
        ([{"type": "header", "text": text(9, "plain_text")}],
         [{"type": "header", "text": text(9)}]),
        ([{"type": "section", "fields": [text(2000)] * 2}],
         [{"type": "section", "fields": [text(2001)]}]),
        ([{"type": "section", "fields": [text()] * 10}],
         [{"type": "section", "fields": [text()] * 11}]),
        ([{"type": "context", "elements": [text()] * 10}],
         [{"type": "context", "elements": [text()] * 11}]),
        ([actions(button(75))], [actions(button(76))]),
        ([actions(button(value="x" * 2000))], [actions(button(value="x" * 2001))]),
        ([actions(button(confirm=confirm(300)))], [actions(button(confirm=confirm(301)))]),
        ([actions(button())], [actions(button(), button())]),
        ([actions(button(style="danger"))], [actions(button(style="loud"))]),
        ([section()], [{**section(), "colour": "red"}]),
        ([section()], [{"type": "section"}]),
        ([section()], [{"type": "chart"}]),
        ([section(2900)] * 4, [section(2900)] * 5),
    ],
)  # fmt: skip
def test_up_to_the_limit_is_taken_and_no_more(
    taken: list[dict[str, Any]], refused: list[dict[str, Any]]
) -> None:
    check_blocks(taken)
    with pytest.raises(Invalid):
        check_blocks(refused)
