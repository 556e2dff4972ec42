"""The settings of a detector: its config dataclass, read for people and filled in from files."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from lossguard.detectors import Detector

_SCALARS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of a detector's config."""

    name: str
    hint: Any
    """Its annotation."""
    default: Any
    doc: str
    """The docstring under the field, in one line; empty where there is none."""

    @property
    def is_writable(self) -> bool:
        """Whether a file can hold it."""
        return bool(_in_words(self.hint))

    def accept(self, value: object) -> Any:
        """The value as the config takes it. Raises ValueError for one of another type."""
        try:
            return _converted(value, self.hint)
        except TypeError:
            raise ValueError(f"must be {_in_words(self.hint)}, got {_shown(value)}") from None


def config_of(kind: type[Detector]) -> Any | None:
    """The default config of a detector; None for one without."""
    config = getattr(kind(), "config", None)
    return config if dataclasses.is_dataclass(config) else None


@cache
def settings_of(kind: type[Detector]) -> tuple[Setting, ...]:
    """Its settings in the order in which the source has them."""
    config = config_of(kind)
    if config is None:
        return ()
    config_kind: type = type(config)
    hints, docs = typing.get_type_hints(config_kind), field_docs(config_kind)
    return tuple(
        Setting(
            field.name,
            hints[field.name],
            getattr(config, field.name),
            docs.get(field.name, ""),
        )
        for field in dataclasses.fields(config)
    )


def build(kind: type[Detector], values: Mapping[str, Any]) -> Detector:
    """A detector with these settings and otherwise its defaults.

    Raises ValueError, with the config's own words, where they make no sense.
    """
    config = config_of(kind)
    if config is None or not values:
        return kind()
    return kind(dataclasses.replace(config, **values))  # type: ignore[call-arg]


def fresh(detector: Detector) -> Detector:
    """A new detector with the same settings."""
    config = getattr(detector, "config", None)
    return type(detector)() if config is None else type(detector)(config)  # type: ignore[call-arg]


@cache
def field_docs(config: type) -> dict[str, str]:
    """The string under each field, in one line. Empty where the source is not at hand."""
    try:
        tree = ast.parse(inspect.getsource(inspect.getmodule(config) or config))
    except (OSError, TypeError, SyntaxError):
        return {}
    docs = {}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.ClassDef) and node.name == config.__name__):
            continue
        for field, after in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                docs[field.target.id] = " ".join(after.value.value.split())
    return docs


def _choices(hint: Any) -> tuple[Any, ...]:
    """What an annotation allows, None apart."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    parts = typing.get_args(hint) if union else (hint,)
    return tuple(part for part in parts if part is not type(None))


def _in_words(hint: Any) -> str:
    """What may be written for it; empty for what no file can hold."""
    words = []
    for choice in _choices(hint):
        if typing.get_origin(choice) is tuple:
            parts = [_in_words(part) for part in typing.get_args(choice) if part is not ...]
            words.append(f"a list of ({', '.join(parts)})" if all(parts) else "")
        else:
            words.append(_SCALARS.get(choice, ""))
    return " or ".join(words) if all(words) else ""


def _converted(value: object, hint: Any) -> Any:
    """The value, with lists made tuples and whole numbers made numbers where those are wanted.

    Raises TypeError for another type.
    """
    for choice in _choices(hint):
        if typing.get_origin(choice) is tuple:
            if isinstance(value, list):
                return _converted_list(value, typing.get_args(choice))
        elif choice is bool or isinstance(value, bool):
            if choice is type(value):
                return value
        elif choice is float and isinstance(value, (int, float)) and not math.isnan(value):
            return float(value)
        elif choice in (int, str) and isinstance(value, choice):
            return value
    raise TypeError


def _converted_list(values: list[object], hints: tuple[Any, ...]) -> tuple[Any, ...]:
    if hints[-1] is ...:
        hints = hints[:1] * len(values)
    if len(hints) != len(values):
        raise TypeError
    return tuple(map(_converted, values, hints))


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a table"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
