"""What Lossguard says in a process of ours."""

from __future__ import annotations

import logging


def lines_said() -> list[str]:
    """Fills with every line from now on."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("lossguard").addHandler(handler)
    return lines
