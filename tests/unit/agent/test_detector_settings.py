"""Settings of detectors: read from their configs, whatever those hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from lossguard.agent.detector_settings import Setting, build, field_docs, fresh, settings_of
from lossguard.detectors import CATALOGUE, Detector, Finding, Observation, Symptom


@dataclass(frozen=True, kw_only=True)
class OddConfig:
    """Every kind of field."""

    flag: bool = False
    """A flag,
    on two lines."""
    ratio: float | None = None
    count: int | float = 3
    """A count."""
    word: str = "x"
    many: tuple[int, ...] = (1,)
    pairs: tuple[tuple[int, float], ...] = ()
    anything: object = None


class Odd(Detector):
    """Looks at nothing."""

    symptom: ClassVar[Symptom] = Symptom.PLATEAU
    inputs: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: OddConfig | None = None) -> None:
        self.config = config or OddConfig()

    def update(self, observation: Observation) -> Finding | None:
        return None

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None: ...

    def rewind(self, step: int) -> None: ...


class Bare(Odd):
    """Has no config."""

    def __init__(self) -> None: ...


def test_fields_and_the_strings_under_them_are_read() -> None:
    """In order; a field without a docstring has none."""
    read = [(s.name, s.default, s.doc) for s in settings_of(Odd)]
    assert read == [
        ("flag", False, "A flag, on two lines."),
        ("ratio", None, ""),
        ("count", 3, "A count."),
        ("word", "x", ""),
        ("many", (1,), ""),
        ("pairs", (), ""),
        ("anything", None, ""),
    ]


def test_what_a_file_cannot_hold_is_not_writable() -> None:
    """It is left at its default."""
    assert [s.name for s in settings_of(Odd) if not s.is_writable] == ["anything"]


def test_values_are_checked_against_the_annotation() -> None:
    """A whole number will do for a number; truth is not one."""
    flag, ratio, count, word, many, pairs, _ = settings_of(Odd)
    assert (flag.accept(True), word.accept("y"), count.accept(2)) == (True, "y", 2.0)
    assert (many.accept([]), many.accept([1, 2])) == ((), (1, 2))
    assert pairs.accept([[1, 2], [3, 4.5]]) == ((1, 2.0), (3, 4.5))
    accepted = ratio.accept(2)
    assert isinstance(accepted, float)
    assert accepted == 2.0
    wrong: list[tuple[Setting, object]] = [
        (flag, 1), (ratio, True), (ratio, "1"), (word, 1), (ratio, {}), (many, 1), (many, [1.5]),
        (many, [True]), (pairs, [1]), (pairs, [[1, 2, 3]]), (pairs, [[1.5, 2]]),
    ]  # fmt: skip
    for setting, value in wrong:
        with pytest.raises(ValueError, match="must be"):
            setting.accept(value)
    with pytest.raises(ValueError, match=r"must be a list of \(a list of \(a whole number, a num"):
        pairs.accept([1])


def test_a_detector_is_built_with_what_is_set() -> None:
    """And another one like it, with the same."""
    odd = build(Odd, {"word": "z"})
    assert isinstance(odd, Odd)
    again = fresh(odd)
    assert isinstance(again, Odd)
    assert again is not odd
    assert again.config == odd.config == OddConfig(word="z")


def test_a_detector_without_a_config_has_no_settings() -> None:
    """It is built as it is."""
    assert settings_of(Bare) == ()
    assert type(build(Bare, {})) is Bare
    assert type(fresh(Bare())) is Bare


def test_docs_of_a_class_without_source_are_missing() -> None:
    """Nobody is hurt by it."""
    made: type = type("Made", (), {"__annotations__": {"a": int}, "a": 1})
    assert field_docs(made) == {}


@pytest.mark.parametrize("symptom", CATALOGUE)
def test_every_setting_of_every_detector_is_documented_and_can_be_written(symptom: str) -> None:
    """The page and the policy files show all of them."""
    for setting in settings_of(CATALOGUE[symptom]):
        assert setting.doc, setting.name
        assert setting.is_writable, setting.name
