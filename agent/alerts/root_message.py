"""The message that a thread hangs on: all that a tired person needs, in one screen."""

from __future__ import annotations

from collections.abc import Iterator

from lossguard.agent.alerts import wording
from lossguard.agent.alerts.blocks import (
    Block,
    code,
    context,
    escaped,
    fields,
    fitted,
    header,
    section,
)
from lossguard.agent.alerts.records import Story
from lossguard.detectors import Symptom
from lossguard.detectors.advice import title_of

_SIGNS = {"info": ":large_blue_circle:", "warning": ":large_orange_circle:",
          "critical": ":red_circle:"}  # fmt: skip
_DEEDS_SHOWN = 4
_WITHOUT_VALUE = (Symptom.HANG, Symptom.PROCESS_EXIT)
"""Their message says it all: a heartbeat has no value and no threshold."""


def root_blocks(
    story: Story, mention: str = "", moved: str = "", buttons: Block | None = None
) -> list[Block]:
    """What, which run, where, how far off, since when, what was done, what to do."""
    return fitted(_blocks(story, mention, moved, buttons))


def headline(story: Story) -> str:
    """In one line, for notifications too."""
    line = story.news.line
    return f"{title_of(line.symptom)} · {story.news.name}"


def sign(story: Story) -> str:
    """As a name between colons."""
    return ":white_check_mark:" if story.is_resolved else _SIGNS.get(story.severity, "")


def _blocks(story: Story, mention: str, moved: str, buttons: Block | None) -> Iterator[Block]:
    line = story.news.line
    yield header(f"{sign(story)} {headline(story)}")
    if moved:
        yield section(moved)
    yield section(" ".join(filter(None, (mention, escaped(line.message)))))
    yield fields(list(_facts(story)))
    done = wording.deeds(story.actions, _DEEDS_SHOWN)
    done += map(wording.answer, story.clicks[-_DEEDS_SHOWN:])
    nothing = "nothing yet" if story.news.acts else "nothing: the policy of this run only observes"
    yield section("*Done*\n" + ("\n".join(f"• {words}" for words in done) or nothing))
    yield section(f"*Next*\n{wording.next_step(story)}")
    if buttons is not None:
        yield buttons
    yield context(list(_small_print(story)))


def _facts(story: Story) -> Iterator[str]:
    line = story.news.line
    yield f"*Run*\n{code(line.run)}"
    late = line.detected_step > line.onset_step
    noticed = f", noticed at {line.detected_step:,}" if late else ""
    yield f"*Since step*\n{line.onset_step:,}{noticed}"
    against = wording.measured(story.news.measured)
    if against or line.symptom not in _WITHOUT_VALUE:
        yield f"*{escaped(line.metric or 'Value')}*\n" + (
            against or f"{line.score:.3g} times the threshold"
        )
    if story.ended is None:
        yield f"*Since*\n{wording.moment(story.opened)}"
    else:
        took = wording.lasted(story.ended - story.opened)
        yield f"*Outcome*\n{wording.outcome(story)}, {took} after it began"


def _small_print(story: Story) -> Iterator[str]:
    line = story.news.line
    yield f"{story.severity} {line.symptom} · {code(line.id)}"
    if line.where:
        yield f"where: {code(line.where)}"
    if story.also:
        yield f"also: {', '.join(story.also)}"
    if line.acked:
        yield f"acknowledged {wording.moment(line.acked)}"
    if line.muted:
        yield "muted"
    if story.returns:
        yield f"came back {story.returns} time{'s' * (story.returns > 1)}"
