"""A home with a database as an agent writes it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from lossguard.agent.database import open_database
from lossguard.home import Home


@pytest.fixture
def database(home: Home) -> Iterator[sqlite3.Connection]:
    """Of the very home that the report will read, and open all the while, as by a live agent."""
    db = open_database(home.database_path)
    yield db
    db.close()
