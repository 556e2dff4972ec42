"""A policy back as TOML: what was set, as it travels; or everything, as people read it."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from lossguard.agent.detector_settings import field_docs, settings_of
from lossguard.agent.ladder import Rung, as_tables
from lossguard.agent.policy_settings import LEAST, Policy, effective_settings
from lossguard.agent.standstill import HangBounds
from lossguard.agent.validation import Validation
from lossguard.detectors import CATALOGUE, Symptom

_WIDTH = 96


def as_toml(policy: Policy) -> str:
    """The policy without the defaults of its detectors; reads back as an equal policy."""
    lines = list(_head(policy))
    for symptom in CATALOGUE:
        chosen = policy.settings.get(symptom, {})
        is_off = Symptom(symptom) in policy.disabled
        if chosen or is_off:
            lines += ["", f"[detectors.{symptom}]", *(["enabled = false"] if is_off else [])]
            lines += [f"{key} = {_value(value)}" for key, value in chosen.items()]
    return "\n".join(lines) + "\n"


def as_full_toml(policy: Policy) -> str:
    """The policy with every setting of every detector and what it means."""
    lines = list(_head(policy, docs=field_docs(Policy)))
    for symptom, kind in CATALOGUE.items():
        chosen = effective_settings(policy, symptom)
        lines += ["", f"[detectors.{symptom}]"]
        lines.append(f"enabled = {_value(Symptom(symptom) not in policy.disabled)}")
        for setting in settings_of(kind):
            if not setting.is_writable:
                continue
            value = chosen.get(setting.name, setting.default)
            lines += _comment(setting.doc)
            unset = f"# {setting.name} is not set"
            lines.append(unset if value is None else f"{setting.name} = {_value(value)}")
    return "\n".join(lines) + "\n"


def _head(policy: Policy, docs: dict[str, str] | None = None) -> Iterator[str]:
    docs = docs or {}
    yield f"name = {_value(policy.name)}"
    yield f"base = {_value(policy.base)}"
    yield from _comment(docs.get("rollback_for", ""))
    names = ", ".join(_value(str(s)) for s in Symptom if s in policy.rollback_for)
    yield f"rollback_for = [{names}]"
    for key in LEAST:
        yield from _comment(docs.get(key, ""))
        yield f"{key} = {getattr(policy, key)}"
    yield from _comment(docs.get("ladder", ""))
    yield f"ladder = [{_rungs(policy.ladder)}]"
    for rule in policy.rules:
        yield ""
        yield "[[rules]]"
        yield f"symptom = [{', '.join(_value(str(s)) for s in Symptom if s in rule.symptoms)}]"
        yield f"severity = {_value(str(rule.severity))}"
        yield f"ladder = [{_rungs(rule.ladder)}]"
    if docs or policy.validation.wants_anything:
        yield ""
        yield "[validation]"
        yield from _settings(policy.validation, bool(docs))
    if docs or policy.hang != HangBounds():
        yield ""
        yield "[hang]"
        yield from _settings(policy.hang, bool(docs))


def _settings(chosen: Validation | HangBounds, with_docs: bool) -> Iterator[str]:
    kind = Validation if isinstance(chosen, Validation) else HangBounds
    docs = field_docs(kind) if with_docs else {}
    for field in fields(chosen):
        yield from _comment(docs.get(field.name, ""))
        yield f"{field.name} = {_value(getattr(chosen, field.name))}"


def _rungs(ladder: tuple[Rung, ...]) -> str:
    tables = [
        ", ".join(f"{key} = {_value(value)}" for key, value in table.items())
        for table in as_tables(ladder)
    ]
    return ", ".join(f"{{{table}}}" for table in tables)


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text.replace("``", ""), _WIDTH)]


def _value(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    return repr(value).lower() if isinstance(value, bool) else repr(value)
