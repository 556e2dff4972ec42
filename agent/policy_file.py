"""A policy as people write it: TOML, checked to the last key.

Errors name the file, the line, the key, and the key that was perhaps meant; all of them at once.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from lossguard.agent.detector_settings import Setting, build, settings_of
from lossguard.agent.ladder import Rule, Rung, rung_of
from lossguard.agent.policy_settings import LEAST, POLICY_NAME, Policy, persistent_steps
from lossguard.agent.standstill import HangBounds
from lossguard.agent.toml_lines import line_of, read_text
from lossguard.agent.validation import Validation
from lossguard.detectors import CATALOGUE, Severity, Symptom
from lossguard.errors import ConfigError
from lossguard.policy_choice import MAX_POLICY_BYTES, SHIPPED, no_such_policy, shipped_policies

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MAX_PROJECT_BYTES = 1 << 20
_KEYS = (
    "name", "base", "rollback_for", "ladder", *LEAST, "rules", "validation", "hang", "detectors",
)  # fmt: skip
_RULE_KEYS = ("symptom", "severity", "ladder")
_VALIDATION = {
    "keep_best": ((bool,), "true or false"),
    "patience": ((int,), "a whole number"),
    "min_delta": ((int, float), "a number"),
}
_HANG = {field.name: ((int, float), "a number") for field in fields(HangBounds)}
_TABLES: dict[str, tuple[Mapping[str, tuple[tuple[type, ...], str]], Callable[..., Any]]] = {
    "validation": (_VALIDATION, Validation),
    "hang": (_HANG, HangBounds),
}


def find_policy(name_or_path: str) -> Policy:
    """A shipped policy by its name, else the one of a file. Raises ConfigError."""
    if name_or_path in shipped_policies():
        return shipped_policy(name_or_path)
    path = Path(name_or_path).expanduser()
    if path.is_file() or path.suffix == ".toml":
        return load_policy(path)
    raise ConfigError(f"policy must be {no_such_policy(name_or_path)}")


def shipped_policy(name: str) -> Policy:
    """A policy that comes with Lossguard. Raises ConfigError for a name there is none of."""
    if name not in shipped_policies():
        known = ", ".join(sorted(shipped_policies()))
        raise ConfigError(f"there is no policy {name[:80]!r}; there are {known}")
    return load_policy(SHIPPED / f"{name}.toml")


def load_policy(path: Path) -> Policy:
    """The policy of a file; of a ``pyproject.toml``, its ``[tool.lossguard]``.

    Raises ConfigError.
    """
    is_project = path.name == "pyproject.toml"
    most = _MAX_PROJECT_BYTES if is_project else MAX_POLICY_BYTES
    try:
        text = read_text(path, most)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    if is_project:
        return parse_policy(text, str(path), table=("tool", "lossguard"))
    stem = "custom" if path.stem == "lossguard" else path.stem
    return parse_policy(text, str(path), name=stem if POLICY_NAME.match(stem) else "custom")


def parse_policy(
    text: str, label: str, *, name: str = "custom", table: tuple[str, ...] = ()
) -> Policy:
    """The policy that a TOML document describes, or the ``table`` in it.

    ``label`` says in errors where the text is from; ``name`` is the policy's where it does not
    name itself. Raises ConfigError.
    """
    try:
        document: Any = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(_broken(label, error)) from error
    for part in table:
        document = document.get(part) if isinstance(document, dict) else None
    if not isinstance(document, dict):
        raise ConfigError(f"{label}: there is no table [{'.'.join(table)}]")
    return _Reader(text, label, table).read(document, name)


def _broken(label: str, error: Exception) -> str:
    if isinstance(error, RecursionError):
        return f"{label}: is nested too deep"
    place = re.search(r"\s*\(at line (\d+), column (\d+)\)", str(error))
    if place is None:
        return f"{label}: is no TOML: {error}"
    words = str(error)[: place.start()]
    return f"{label}:{place[1]}: is no TOML: {words} (column {place[2]})"


class _Reader:
    """One document; remembers what is wrong with it."""

    def __init__(self, text: str, label: str, table: tuple[str, ...]) -> None:
        self._text = text
        self._label = label
        self._table = table
        self._problems: list[str] = []

    def read(self, document: Mapping[str, Any], name: str) -> Policy:
        for key in document:
            if key not in _KEYS:
                self._unknown((key,), "setting", _KEYS)
        given: dict[str, Any] = {"name": name, "acts": False}
        if self._is("name", str, document, "text"):
            given["name"] = document["name"]
        if self._is("base", str, document, '"observe" or "guard"'):
            given["acts"] = document["base"] == "guard"
            if document["base"] not in ("observe", "guard"):
                self._wrong(("base",), f'must be "observe" or "guard", got {document["base"]!r}')
        for key in LEAST:
            if self._is(key, int, document, "a whole number"):
                given[key] = document[key]
        given |= self._actions(document)
        given |= self._tables(document)
        if self._is("detectors", dict, document, "a table"):
            given |= self._detectors(document["detectors"])
        self._agree(given)
        try:
            policy = Policy(**given)
        except ValueError as error:
            self._wrong((str(error).split()[0],), str(error).partition(" ")[2])
        if self._problems:
            raise ConfigError("\n".join(self._problems))
        return policy

    def _is(self, key: str, kind: type, document: Mapping[str, Any], wanted: str) -> bool:
        """Whether the key is there; complains about one of another type."""
        value = document.get(key)
        if value is None:
            return False
        if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return True
        self._wrong((key,), f"must be {wanted}, got {value!r:.60}")
        return False

    def _actions(self, document: Mapping[str, Any]) -> dict[str, Any]:
        given: dict[str, Any] = {}
        if self._is("rollback_for", list, document, "a list of symptoms"):
            given["rollback_for"] = self._symptoms(("rollback_for",), document["rollback_for"])
        if self._is("ladder", list, document, "a list of rungs"):
            given["ladder"] = self._ladder(("ladder",), document["ladder"])
        if self._is("rules", list, document, "a list of tables, [[rules]]"):
            given["rules"] = tuple(filter(None, map(self._rule, document["rules"])))
        return given

    def _symptoms(self, path: tuple[str, ...], names: list[Any]) -> frozenset[Symptom]:
        known = [str(symptom) for symptom in Symptom]
        for name in names:
            if name not in known:
                hint = _near(str(name), known)
                self._wrong(path, f"there is no symptom {name!r:.60}{hint}")
        return frozenset(Symptom(name) for name in names if name in known)

    def _ladder(self, path: tuple[str, ...], tables: list[Any]) -> tuple[Rung, ...]:
        rungs = []
        for table in tables:
            if not isinstance(table, dict):
                self._wrong(path, f'a rung is a table like {{do = "rollback"}}, got {table!r:.60}')
                continue
            try:
                rungs.append(rung_of(table))
            except ValueError as error:
                self._wrong(path, str(error))
        return tuple(rungs)

    def _rule(self, table: Any) -> Rule | None:
        if not isinstance(table, dict):
            self._wrong(("rules",), f"must be tables, got {table!r:.60}")
            return None
        for key in table:
            if key not in _RULE_KEYS:
                self._unknown(("rules", key), "setting", _RULE_KEYS)
        names = table.get("symptom", [])
        severity, ladder = table.get("severity", "critical"), table.get("ladder", [])
        if severity not in ("info", "warning", "critical"):
            self._wrong(("rules", "severity"), f"must be a severity, got {severity!r:.60}")
        if not isinstance(ladder, list):
            self._wrong(("rules", "ladder"), f"must be a list of rungs, got {ladder!r:.60}")
        before = len(self._problems)
        symptoms = self._symptoms(
            ("rules", "symptom"), names if isinstance(names, list) else [names]
        )
        rungs = self._ladder(("rules", "ladder"), ladder if isinstance(ladder, list) else [])
        if self._problems[before:]:
            return None
        try:
            return Rule(symptoms, rungs, Severity(severity))
        except ValueError as error:
            self._wrong(("rules",), str(error))
            return None

    def _tables(self, document: Mapping[str, Any]) -> dict[str, Any]:
        given: dict[str, Any] = {}
        for table, (known, kind) in _TABLES.items():
            if self._is(table, dict, document, "a table"):
                given |= self._settings_of(table, document, known, kind)
        return given

    def _settings_of(
        self,
        table: str,
        document: Mapping[str, Any],
        known: Mapping[str, tuple[tuple[type, ...], str]],
        kind: Callable[..., Any],
    ) -> dict[str, Any]:
        chosen: dict[str, Any] = {}
        for key, value in document[table].items():
            if key not in known:
                self._unknown((table, key), "setting", known)
                continue
            kinds, wanted = known[key]
            if isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool)):
                chosen[key] = value
            else:
                self._wrong((table, key), f"must be {wanted}, got {value!r:.60}")
        try:
            return {table: kind(**chosen)}
        except ValueError as error:
            key, _, why = str(error).partition(" ")
            self._wrong((table, key), why)
            return {}

    def _detectors(self, tables: Mapping[str, Any]) -> dict[str, Any]:
        disabled: set[Symptom] = set()
        settings: dict[str, Mapping[str, Any]] = {}
        for symptom, table in tables.items():
            path = ("detectors", symptom)
            if symptom not in CATALOGUE:
                self._unknown(path, "detector", CATALOGUE)
            elif not isinstance(table, dict):
                self._wrong(path, f"must be a table, got {table!r:.60}")
            else:
                chosen = dict(table)
                enabled = chosen.pop("enabled", True)
                if not isinstance(enabled, bool):
                    self._wrong((*path, "enabled"), f"must be true or false, got {enabled!r:.60}")
                if enabled is False:
                    disabled.add(Symptom(symptom))
                if accepted := self._settings(symptom, chosen):
                    settings[symptom] = accepted
        return {"disabled": frozenset(disabled), "settings": settings}

    def _settings(self, symptom: str, table: Mapping[str, Any]) -> dict[str, Any]:
        known = {s.name: s for s in settings_of(CATALOGUE[symptom]) if s.is_writable}
        accepted: dict[str, Any] = {}
        complete = True
        for key, value in table.items():
            path = ("detectors", symptom, key)
            if key not in known:
                self._unknown(path, "setting", ("enabled", *known))
                complete = False
                continue
            try:
                accepted[key] = known[key].accept(value)
            except ValueError as error:
                self._wrong(path, str(error))
                complete = False
        if complete:
            self._try(symptom, accepted, known)
        return accepted

    def _try(self, symptom: str, accepted: dict[str, Any], known: Mapping[str, Setting]) -> None:
        """Complain about what the detector itself complains about."""
        try:
            build(CATALOGUE[symptom], accepted)
        except Exception as error:  # a config may meet an extreme value in its arithmetic
            blamed = [key for key in accepted if re.search(rf"\b{re.escape(key)}\b", str(error))]
            key = (blamed or list(accepted))[:1]
            self._wrong(("detectors", symptom, *key), str(error) or type(error).__name__)

    def _agree(self, given: dict[str, Any]) -> None:
        """The tolerance for what is not finite is the detector's too: one number."""
        by_detector = given.get("settings", {}).get("nonfinite", {}).get("persistent_steps")
        if by_detector is None:
            return
        tolerance = given.setdefault("nonfinite_tolerance", by_detector)
        if persistent_steps(tolerance) != by_detector:
            self._wrong(
                ("detectors", "nonfinite", "persistent_steps"),
                f"is {by_detector} where nonfinite_tolerance is {tolerance}: they are one "
                "number, leave one of them out",
            )

    def _unknown(self, path: tuple[str, ...], what: str, known: Iterable[str]) -> None:
        self._wrong(path, f"there is no such {what}{_near(path[-1], known)}")

    def _wrong(self, path: tuple[str, ...], why: str) -> None:
        line = line_of(self._text, (*self._table, *path))
        place = self._label if line is None else f"{self._label}:{line}"
        self._problems.append(f"{place}: {'.'.join(path)}: {why}")


def _near(name: str, known: Iterable[str]) -> str:
    """A hint at what was perhaps meant."""
    near = difflib.get_close_matches(name, list(known), 1, 0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
