"""What a line of running text says: each number in it, and the words before the number."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from lossguard.agent.logs.names import EPOCH, STEP, Recogniser, meaning_of_words
from lossguard.agent.logs.source import Record

_NUMBER = re.compile(
    r"(?<![\w.])([-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|\.\d+(?:e[-+]?\d+)?|nan\b|inf(?:inity)?\b))",
    re.IGNORECASE,
)
_WORD = re.compile(r"[A-Za-z_][\w./]*")
_UNIT = re.compile(r"\s*\(([a-zA-Z%]+)\)$")
_CLAUSE = re.compile(r"[|,;:(){}\[\]<>=\"']")
_BEFORE_NUMBER = " \t:=~'\"[->|"
_FILLERS = frozenset(("is", "was", "of", "at", "the", "now"))
_NOT_NOW = frozenset((
    "best", "lowest", "highest", "min", "minimum", "max", "maximum", "target", "previous", "prev",
    "last", "delta", "change", "improved", "threshold", "diff", "final",
))  # fmt: skip
_EVALUATION = re.compile(r"\b(?:val|valid|validat\w+|eval|evaluat\w+|test|dev)\b", re.IGNORECASE)
_TRAINING = re.compile(r"\b(?:train|training)\b", re.IGNORECASE)
_MOST_WORDS = 5
_TOTAL = "/"
"""What stands between a count and its total."""
_MOST_KNOWN = 2000
_MOST_DIGITS = 18
_LONGEST = 1 << 16
"""Characters of a line that are looked at."""


@dataclass(slots=True)
class Said:
    """What one line says."""

    record: Record = field(default_factory=dict)
    """Metrics, and ``step`` and ``epoch`` where it says them."""
    progress: tuple[int, int] | None = None
    """(done, of how many), from "450/1000"."""


@dataclass(frozen=True, slots=True)
class _Template:
    """What the numbers of a line mean, by the words between them."""

    columns: tuple[tuple[int, str], ...]
    """(index of the number, its column)"""
    fractions: tuple[int, ...]
    """Index of each number that has no name and a slash and another number behind it."""


class LineReader:
    """Finds "loss 2.3", "lm loss: 6.4E+00", "'val_loss': '0.4'", "step 10/1000" and their like.

    What the words between the numbers mean is looked up once: logs repeat them line by line.
    """

    def __init__(self, recogniser: Recogniser) -> None:
        self._recogniser = recogniser
        self._known: dict[str, str | None] = {}
        self._templates: dict[tuple[str, ...], _Template] = {}

    def read(self, line: str) -> Said:
        """What the line says; nothing, where it says nothing of use."""
        parts = _NUMBER.split(line[:_LONGEST])
        words = tuple(parts[::2])
        template = self._templates.get(words)
        if template is None:
            template = self._template(words)
            if len(self._templates) >= _MOST_KNOWN:
                self._templates.clear()
            if len(line) < _MOST_KNOWN:
                self._templates[words] = template
        record: Record = {}
        for i, column in template.columns:
            if column not in record:
                record[column] = float(parts[2 * i + 1])
        for i in template.fractions:
            done, total = _count(parts[2 * i + 1]), _count(parts[2 * i + 3])
            if done is not None and total is not None and done <= total:
                return Said(record, (done, total))
        return Said(record)

    def _template(self, words: tuple[str, ...]) -> _Template:
        keys = words[:-1]
        known = [self._look_up(key) for key in keys]
        columns = [
            (i, self._named(column, "0".join(keys[: i + 1])))
            for i, column in enumerate(known)
            if column is not None and column != _TOTAL
        ]
        # Two slashes make a date.
        fractions = [
            i - 1
            for i, column in enumerate(known)
            if column == _TOTAL
            and i > 0
            and known[i - 1] is None
            and known[i + 1 : i + 2] != [_TOTAL]
        ]
        return _Template(tuple(columns), tuple(fractions))

    def _named(self, column: str, front: str) -> str:
        """The column under the name that does not depend on the line."""
        if column in self._recogniser.said.values():
            return column
        meaning = self._recogniser.meaning(column)
        metric = meaning.metric if meaning is not None else ""
        if metric in (STEP, EPOCH):
            return metric
        return "val_loss" if metric == "loss" and _is_evaluation(front) else column

    def _look_up(self, key: str) -> str | None:
        if key in self._known:
            return self._known[key]
        found = _TOTAL if key.strip() in ("/", "of", "out of") else self._column(key)
        if len(self._known) < _MOST_KNOWN:
            self._known[key] = found
        return found

    def _column(self, key: str) -> str | None:
        """The column that the words right before a number name."""
        clause, unit = key[-200:].rstrip(_BEFORE_NUMBER), ""
        if (in_brackets := _UNIT.search(clause)) is not None:
            clause, unit = clause[: in_brackets.start()], f" ({in_brackets[1].lower()})"
        words = _words(clause)
        while words and words[-1].lower() in _FILLERS:
            clause = clause[: clause.rindex(words[-1])].rstrip(_BEFORE_NUMBER)
            words = _words(clause)
        for many in range(min(_MOST_WORDS, len(words)), 0, -1):
            phrase = " ".join(words[-many:])
            if phrase in self._recogniser.said.values():
                return phrase
            for name in dict.fromkeys((phrase + unit, phrase)):
                if meaning_of_words(name) is None or self._recogniser.meaning(name) is None:
                    continue
                before = words[-many - 1].lower() if many < len(words) else ""
                return None if before in _NOT_NOW else name
        return None


def _words(clause: str) -> list[str]:
    """The words at the end of the text, as far back as no punctuation comes between them."""
    ends = [match.end() for match in _CLAUSE.finditer(clause)]
    last = clause[ends[-1] if ends else 0 :]
    words = list(_WORD.finditer(last))
    return [word[0] for word in words] if words and words[-1].end() == len(last) else []


def _is_evaluation(front: str) -> bool:
    """Whether "loss" after this text is that of an evaluation."""
    evaluation, training = list(_EVALUATION.finditer(front)), list(_TRAINING.finditer(front))
    if not evaluation:
        return False
    return not training or training[-1].start() < evaluation[-1].start()


def _count(number: str) -> int | None:
    """Of steps; None for what is none. Python refuses to read thousands of digits."""
    return int(number) if number.isdecimal() and len(number) <= _MOST_DIGITS else None
