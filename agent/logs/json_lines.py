"""JSON lines: one object a line."""

from __future__ import annotations

from collections.abc import Iterator

from lossguard.agent.logs.json_values import parsed, record_of
from lossguard.agent.logs.source import Record, Source
from lossguard.agent.logs.stream import Stream


class JsonLines(Source):
    """Every line an object, as many loggers and ``pandas.to_json(lines=True)`` write them."""

    format = "JSON lines"

    def records(self) -> Iterator[tuple[int, Record]]:
        """Every line that is an object."""
        self._keys: dict[str, None] = {}
        recogniser = self.recogniser
        with Stream(self.path) as stream:
            number = 0
            for number, line in enumerate(stream.lines(), start=1):
                if not line or line.isspace():
                    continue
                if number % 4096 == 0:
                    self.share_read = stream.position / max(stream.size, 1)
                try:
                    value = parsed(line)
                    if not isinstance(value, dict):
                        raise ValueError("not a JSON object")
                    record = record_of(value, recogniser)
                except ValueError as error:
                    self.troubles.note(number, str(error)[:200])
                    continue
                if not record:
                    self._see(value)
                    continue
                yield number, record
            if stream.damage:
                self.troubles.note(number, stream.damage)

    def _see(self, value: dict[str, object]) -> None:
        if len(self._keys) < 100:
            self._keys.update(dict.fromkeys(str(key)[:40] for key in list(value)[:12]))

    def contents(self) -> str:
        """The keys, in words."""
        keys = ", ".join(list(self._keys)[:12])
        return f"none of the keys ({keys}) is a metric that is known"
