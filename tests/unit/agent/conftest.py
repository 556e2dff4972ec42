"""The state that an agent keeps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lossguard.agent.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A new one."""
    with closing(Store(tmp_path / "lossguard.db")) as store:
        yield store
