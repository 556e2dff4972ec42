"""The page of promises is true: every test it names is there, and its tables are the newest."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.faults.promises import FAULTS, PAGE, PROMISES, page_with, tables

_ROOT = Path(__file__).resolve().parents[2]


@cache
def _functions(path: str) -> frozenset[str]:
    tree = ast.parse((_ROOT / path).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


NAMED = sorted({t for p in PROMISES for t in p.tests} | {fault.test for fault in FAULTS})


@pytest.mark.parametrize("test", NAMED)
def test_every_test_that_is_named_is_there(test: str) -> None:
    """By its file and its name."""
    path, _, name = test.partition("::")
    assert name in _functions(path)


def test_every_promise_has_a_test() -> None:
    """And there are thirteen."""
    assert [promise.number for promise in PROMISES] == [f"P{n}" for n in range(1, 14)]
    assert all(promise.tests for promise in PROMISES)


def test_the_page_shows_these_tables() -> None:
    """`python -m tests.faults.promises` writes them anew."""
    page = PAGE.read_text()
    assert page == page_with(tables(), page)
