"""Running a part of Lossguard in a process of its own."""

from __future__ import annotations

import sys


def own_python(module: str, *args: str) -> list[str]:
    """The command for ``module``, by the Python that runs this, blind to the working directory."""
    isolated = ["-P"] if sys.version_info >= (3, 11) else []
    return [sys.executable, *isolated, "-m", module, *args]
