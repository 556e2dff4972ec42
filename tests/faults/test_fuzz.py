"""Damaged bytes, wherever bytes of somebody else are read: taken or refused, and counted."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import fuzz
from lossguard.agent.policy_file import parse_policy
from lossguard.agent.settings import parse_settings
from lossguard.errors import ConfigError


def test_damaged_inputs_are_taken_or_refused_and_nothing_else(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Thousands of them, of every kind; `python -m benchmarks.fuzz` tries a million."""
    assert fuzz.fuzz(3000, seed=1)
    assert capsys.readouterr().out.count("refused") == 7


def test_what_breaks_a_target_is_shown_with_its_input(capsys: pytest.CaptureFixture[str]) -> None:
    """A fuzzer that cannot fail proves nothing."""

    def breaks(data: bytes) -> None:
        raise KeyError("broken")

    assert not fuzz._try("broken", breaks, b"\x01case", fuzz.Tally())
    assert r"b'\x01case'" in capsys.readouterr().out


def test_undamaged_inputs_are_taken(tmp_path: Path) -> None:
    """The healthy twin: every good input of every target."""
    for name, _, seeds, take in fuzz.targets(tmp_path):
        for seed in seeds:
            take(seed)
            assert name


def test_mutations_differ_and_repeat_with_their_seed() -> None:
    """A failure can be had again."""
    seeds = fuzz._from_probe()
    first = [fuzz.mutated(random.Random(5), seeds) for _ in range(3)]
    assert first[0] == first[1] == first[2]
    dice = random.Random(6)
    assert len({fuzz.mutated(dice, seeds) for _ in range(200)}) > 150


_TOML = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("parse", [parse_settings, parse_policy], ids=["agent.toml", "policy"])
@settings(max_examples=80, deadline=None)
@given(
    table=st.sampled_from(["retention", "slack", "alerts", "listen", "detectors.loss_spike", "x"]),
    key=st.sampled_from(["runs", "days", "max_mib", "channel", "tcp", "policy", "enabled", "y"]),
    value=_TOML,
    rest=st.text(max_size=30),
)
def test_any_setting_is_taken_or_refused_by_name(
    parse: object, table: str, key: str, value: object, rest: str
) -> None:
    """No other exception, whatever stands there."""
    assert callable(parse)
    for text in (f"[{table}]\n{key} = {str(value).lower()}\n", f"{table} = {value!r}\n", rest):
        refusal = ""
        try:
            parse(text, "some.toml")
        except ConfigError as error:
            refusal = str(error)
        assert not refusal or "some.toml" in refusal
