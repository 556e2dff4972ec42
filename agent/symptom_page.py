"""docs/symptoms.md: the same advice as ``lossguard explain`` gives, as a page of Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from lossguard.agent.detector_settings import Setting
from lossguard.agent.explaining import ORDERED, default_text, needs, parts, thresholds
from lossguard.detectors import CATALOGUE
from lossguard.detectors.advice import ADVICE, Advice

_WIDTH = 100

_HEAD = """\
# Symptoms

What Lossguard looks for, what it means and what helps. `lossguard explain SYMPTOM` says the same.

Made by `python docs/make_symptoms.py` from `detectors/advice/` and the detectors' own settings: do
not edit it here. What each metric is stands in [metrics.md](metrics.md), how to change a threshold
in [policies.md](policies.md).
"""


def page(docs: Path) -> str:
    """The whole page. A picture of a symptom is shown where ``docs/symptoms/`` has one."""
    lines = [_HEAD, "| symptom | in short |", "| --- | --- |"]
    lines += [
        f"| [{advice.symptom.value}](#{advice.symptom.value}) | {advice.title} |"
        for advice in ADVICE.values()
    ]
    for advice in ADVICE.values():
        lines += ["", *_section(advice, docs)]
    return "\n".join(lines) + "\n"


def _section(advice: Advice, docs: Path) -> Iterator[str]:
    name = advice.symptom.value
    yield f"## {name}"
    yield ""
    yield _wrapped(f"*{advice.title}.* {advice.meaning}")
    if (docs / "symptoms" / f"{name}.png").is_file():
        yield ""
        yield f"![{advice.title}: a run that shows it](symptoms/{name}.png)"
    for title, part in parts(advice):
        yield ""
        if isinstance(part, str):
            code = title == "Looks at"
            yield _wrapped(f"**{title}**: {_metrics(advice) if code else part}")
        else:
            yield f"**{title}**"
            yield ""
            yield from _listed(part, numbered=title in ORDERED)
    if settings := thresholds(advice.symptom):
        yield ""
        yield from _table(advice, settings)


def _metrics(advice: Advice) -> str:
    return ", ".join(f"`{metric}`" for metric in needs(advice.symptom))


def _listed(items: Sequence[str], *, numbered: bool) -> Iterator[str]:
    for number, item in enumerate(items, start=1):
        mark = f"{number}. " if numbered else "* "
        yield _wrapped(item, first=mark, rest=" " * len(mark))


def _table(advice: Advice, settings: Sequence[Setting]) -> Iterator[str]:
    kind = CATALOGUE[advice.symptom.value]
    module = kind.__module__.removeprefix("lossguard.").replace(".", "/")
    yield _wrapped(
        f"**Thresholds**, under `[detectors.{advice.symptom.value}]` in a policy file; formula and "
        f"source stand in [`{kind.__name__}`](../{module}.py)"
    )
    yield ""
    yield "| setting | default | meaning |"
    yield "| --- | --- | --- |"
    for setting in settings:
        doc = setting.doc.replace("``", "`").replace("|", "\\|")
        yield f"| `{setting.name}` | {default_text(setting.default)} | {doc} |"


def _wrapped(text: str, first: str = "", rest: str = "") -> str:
    return textwrap.fill(
        text, _WIDTH, initial_indent=first, subsequent_indent=rest,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
