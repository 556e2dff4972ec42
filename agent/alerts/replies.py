"""What stands in a thread below its root message."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lossguard.agent.alerts import wording
from lossguard.agent.alerts.blocks import Block, code, escaped, fitted, listing, section
from lossguard.agent.alerts.records import Reply, Story
from lossguard.agent.alerts.root_message import headline, sign
from lossguard.detectors.advice import advice_on

_LISTING = 2500
"""Characters of a traceback or of stacks; all of it lies in the bundle."""


def reply_blocks(reply: Reply, texts: Mapping[str, str], mention: str = "") -> list[Block]:
    """``texts``: the files of the bundle that are worth a look, by name."""
    if reply.topic == "details":
        return fitted(_details(reply.story, texts))
    if reply.topic == "actions":
        return fitted(_actions(reply, texts))
    return fitted([section(" ".join(filter(None, (mention, summary(reply)))))])


def summary(reply: Reply) -> str:
    """A reply in one line, which says enough where it stands alone."""
    story, about = reply.story, escaped(headline(reply.story))
    line = story.news.line
    if reply.topic == "escalated":
        return f"{sign(story)} *Now {story.severity}*: {about}: {escaped(line.message)}"
    if reply.topic == "returned":
        since = f"since step {line.onset_step:,}"
        return f"{sign(story)} *Trouble again* {since}: {escaped(line.message)}"
    if reply.topic == "also":
        return f"{sign(story)} Step {line.detected_step:,}: {escaped(line.message)}"
    if reply.topic == "resolved":
        took = wording.lasted((story.ended or story.opened) - story.opened)
        words = wording.outcome(story).capitalize()
        return f"{sign(story)} *{words}*, {took} after it began: {about}"
    if reply.topic == "answer" and reply.click is not None:
        mark = ":white_check_mark:" if reply.click.status == "done" else ":x:"
        return f"{mark} {wording.answer(reply.click)}"
    if reply.topic == "actions":
        return "; ".join(wording.deed(action) for action in reply.actions)
    return f"Details: {about}"


def _details(story: Story, texts: Mapping[str, str]) -> Iterator[Block]:
    line = story.news.line
    numbers = ", ".join(f"{name} {wording.number(value)}" for name, value in line.evidence.items())
    if numbers:
        yield section(f"*Measured*\n{escaped(numbers.replace('_', ' '))}")
    if "traceback.txt" in texts:
        yield section(listing(_end_of(texts["traceback.txt"]), _LISTING))
    advice = advice_on(line.symptom)
    if advice is not None:
        yield section(_numbered("What it may be", advice.causes))
        yield section(_numbered("What helps", advice.fixes))
    more = [f"Causes and fixes: {code(f'lossguard explain {line.symptom}')}"] if advice else []
    if story.news.bundle:
        more.append(f"Evidence on the agent's machine: {code(story.news.bundle)}")
    if more:
        yield section("\n".join(more))


def _actions(reply: Reply, texts: Mapping[str, str]) -> Iterator[Block]:
    yield section("\n".join(f"• {wording.deed(action)}" for action in reply.actions))
    read = any(action.action == "dump_stacks" for action in reply.actions)
    if read and "stacks.txt" in texts:
        yield section(listing(texts["stacks.txt"], _LISTING))


def _numbered(head: str, items: tuple[str, ...]) -> str:
    lines = (f"{number}. {escaped(item)}" for number, item in enumerate(items, start=1))
    return f"*{head}*\n" + "\n".join(lines)


def _end_of(text: str) -> str:
    """A traceback says at its end what matters."""
    return text if len(text) <= _LISTING // 2 else "…" + text[-_LISTING // 2 :]
