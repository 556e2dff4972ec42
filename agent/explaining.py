"""``lossguard explain``: what a symptom means, what helps, and what its detector is set to.

Advice comes from ``detectors.advice``, thresholds from the detectors' own configs.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from lossguard.agent.detector_settings import Setting, settings_of
from lossguard.detectors import CATALOGUE, Symptom
from lossguard.detectors.advice import ADVICE, Advice
from lossguard.errors import UsageError

_WIDEST = 100
"""Longer lines are hard to read, however wide the terminal is."""


def explain_symptom(name: str, as_json: bool) -> None:
    """Print all there is to say about one. Raises UsageError for a name that nothing has."""
    advice = ADVICE[symptom_named(name)]
    if as_json:
        _say_json(advice_object(advice))
    else:
        console = _console()
        with console.capture() as shown:
            _print(advice, console)
        _say(shown.get())


def list_symptoms(as_json: bool) -> None:
    """Print a line about each."""
    if as_json:
        for advice in ADVICE.values():
            _say_json({"symptom": advice.symptom.value, "title": advice.title,
                       "meaning": advice.meaning})  # fmt: skip
        return
    console = _console()
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    for advice in ADVICE.values():
        table.add_row(Text(advice.symptom.value, "bold cyan"), advice.title)
    with console.capture() as shown:
        console.print(table)
        console.print("\nMore: lossguard explain SYMPTOM")
    _say(shown.get())


def symptom_named(name: str) -> Symptom:
    """The symptom of this name, also under another name, with dashes, or cut short.

    Raises UsageError, with the nearest name.
    """
    wanted = name.strip().lower().replace("-", "_").replace(" ", "_")
    by_name = {symptom.value: symptom for symptom in ADVICE}
    others = {
        other.replace(" ", "_"): advice.symptom
        for advice in ADVICE.values()
        for other in advice.also_called
    }
    if (found := by_name.get(wanted) or others.get(wanted)) is not None:
        return found
    begun = [symptom for known, symptom in by_name.items() if wanted and known.startswith(wanted)]
    if len(begun) == 1:
        return begun[0]
    near = difflib.get_close_matches(wanted, [*by_name, *others], 1, 0.5)
    meant = [symptom.value for symptom in begun or [(by_name | others)[known] for known in near]]
    hint = f"did you mean {' or '.join(meant)}?" if meant else "`lossguard explain` lists them all"
    raise UsageError(f"there is no symptom {name!r}; {hint}")


def advice_object(advice: Advice) -> dict[str, Any]:
    """An advice as ``--json`` prints it."""
    return {
        "symptom": advice.symptom.value,
        "title": advice.title,
        "meaning": advice.meaning,
        "looks": advice.looks,
        "causes": list(advice.causes),
        "fixes": list(advice.fixes),
        "guard": advice.guard,
        "misses": list(advice.misses),
        "false_alarms": list(advice.false_alarms),
        "sources": list(advice.sources),
        "needs": list(needs(advice.symptom)),
        "settings": [
            {"name": setting.name, "default": setting.default, "doc": setting.doc}
            for setting in thresholds(advice.symptom)
        ],
    }


def needs(symptom: Symptom) -> tuple[str, ...]:
    """The metrics its detector looks at; it is silent on a run that has none of them."""
    kind = CATALOGUE.get(symptom.value)
    return () if kind is None else kind.inputs


def thresholds(symptom: Symptom) -> tuple[Setting, ...]:
    """The settings of its detector."""
    kind = CATALOGUE.get(symptom.value)
    return () if kind is None else settings_of(kind)


def default_text(value: object) -> str:
    """A default as people write it."""
    if value is None or value == ():
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


# --- on the terminal ----------------------------------------------------------------------


def _console() -> Console:
    """Colours where the terminal has them and NO_COLOR does not forbid them; at most 100 wide."""
    console = Console(file=sys.stdout, highlight=False)
    console.width = min(console.width, _WIDEST)
    return console


def _print(advice: Advice, console: Console) -> None:
    heading = Text.assemble((advice.symptom.value, "bold cyan"), "  ", (advice.title, "bold"))
    console.print(Rule(heading, align="left", style="dim"))
    styled = console.color_system is not None and not console.no_color
    console.print(_rich(advice.meaning, styled))
    for title, part in parts(advice):
        console.print()
        console.print(Text(title, "bold"))
        if isinstance(part, str):
            console.print(Padding(_rich(part, styled), (0, 0, 0, 2)))
        else:
            console.print(_listed(part, title in ORDERED, styled))
    if settings := thresholds(advice.symptom):
        console.print()
        table = f"[detectors.{advice.symptom.value}]"
        console.print(Text.assemble(("Thresholds", "bold"), f", under {table} in a policy file"))
        console.print(_settings_table(settings))
    page = f"Formula and source: lossguard/detectors, class {_detector_name(advice.symptom)}"
    console.print()
    console.print(Text(page if needs(advice.symptom) else "No detector looks for it yet.", "dim"))


ORDERED = ("Usual causes", "What helps")


def parts(advice: Advice) -> Iterator[tuple[str, str | Sequence[str]]]:
    """The sections of an advice, in order; empty ones are left out. Those that are ``ORDERED``
    have the most important first."""
    yield "What it looks like", advice.looks
    yield "Usual causes", advice.causes
    yield "What helps", advice.fixes
    yield "Under guard", advice.guard
    if advice.misses:
        yield "Not seen", advice.misses
    if advice.false_alarms:
        yield "Taken for it wrongly", advice.false_alarms
    if metrics := needs(advice.symptom):
        yield "Looks at", ", ".join(metrics)
    if advice.sources:
        yield "Read more", advice.sources


def _listed(items: Sequence[str], numbered: bool, styled: bool) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=4 if numbered else 3, justify="right", no_wrap=True)
    table.add_column()
    for number, item in enumerate(items, start=1):
        table.add_row(Text(f"{number}." if numbered else "-", "dim"), _rich(item, styled))
    return table


def _settings_table(settings: Sequence[Setting]) -> Padding:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    for setting in settings:
        doc = Text(setting.doc.replace("``", ""), "dim")
        table.add_row(Text(setting.name, "cyan"), default_text(setting.default), doc)
    return Padding(table, (0, 0, 0, 2))


def _rich(text: str, styled: bool) -> Text:
    """A sentence with code set off: by its colour, or by its backticks where there is none."""
    if not styled:
        return Text(text)
    sentence = Text()
    for i, piece in enumerate(text.split("`")):
        sentence.append(piece, "green" if i % 2 else "")
    return sentence


def _detector_name(symptom: Symptom) -> str:
    kind = CATALOGUE.get(symptom.value)
    return "" if kind is None else kind.__name__


def _say(text: str) -> None:
    """Without the blanks that fill up lines."""
    sys.stdout.write("\n".join(line.rstrip() for line in text.split("\n")))


def _say_json(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
