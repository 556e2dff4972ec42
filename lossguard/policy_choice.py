"""Which policy a run is under: the first that is there, whole; policies are not mixed.

    1. what was asked for: ``--policy``, ``attach(policy=...)``
    2. ``LOSSGUARD_POLICY``
    3. ``lossguard.toml``, or else ``[tool.lossguard]`` in ``pyproject.toml``, in the working
       directory or the nearest one above it that has either
    4. ``observe``

Both sides use this module. It reads no TOML: a training process must not load numpy before its
script had its say, so what a policy means is worked out in a process of its own.
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lossguard.errors import ConfigError, ExitCode
from lossguard.own_python import own_python

SHIPPED = Path(__file__).parent / "agent" / "policies"
"""The policies that come with Lossguard, a TOML file each."""

MAX_POLICY_BYTES = 1 << 16
"""No policy is longer, in a file or in a message."""

_CHECK_TIMEOUT_S = 120.0
_PYPROJECT_TABLE = re.compile(r"^\s*\[\s*tool\s*\.\s*lossguard\s*[\].]", re.MULTILINE)

log = logging.getLogger("lossguard")


@dataclass(frozen=True)
class Wanted:
    """A policy by the name of a shipped one or the path of a file, and who asked for it."""

    policy: str
    origin: str

    @property
    def path(self) -> Path | None:
        """The file, where it is not a shipped policy."""
        return None if self.policy in shipped_policies() else Path(self.policy).expanduser()


@dataclass(frozen=True)
class ChosenPolicy:
    """A policy as it travels: what the probe does, and the settings for the agent."""

    base: Literal["observe", "guard"]
    """Whether anything is done to the run."""
    text: str = ""
    """The whole policy as TOML; empty where it is the shipped one of the name ``base``."""
    name: str = ""
    origin: str = ""
    """The file it is from, else who asked for it."""


def shipped_policies() -> list[str]:
    """Their names: the two that everybody needs, then the others."""
    others = sorted(path.stem for path in SHIPPED.glob("*.toml"))
    return ["observe", "guard", *(name for name in others if name not in ("observe", "guard"))]


def wanted_policy(asked: str | os.PathLike[str] | None = None) -> Wanted:
    """The policy in force, by the order above.

    Raises ConfigError for a name there is no policy of, and for a file that is not there.
    """
    if asked:
        return _existing(Wanted(os.fspath(asked), "as asked"))
    if by_environment := os.environ.get("LOSSGUARD_POLICY"):
        return _existing(Wanted(by_environment, "LOSSGUARD_POLICY"))
    if (file := _nearest_file(Path.cwd())) is not None:
        return Wanted(str(file), str(file))
    return Wanted("observe", "the default")


def choose_policy(
    asked: str | os.PathLike[str] | None = None, *, acts: bool = False
) -> ChosenPolicy:
    """The policy in force, checked; with ``acts`` it acts, whatever it says itself.

    Takes about 0.3 s where it is more than plain ``observe`` or ``guard``: another process reads
    it. Raises ConfigError where it is not valid.
    """
    wanted = wanted_policy(asked)
    if wanted.policy in ("observe", "guard"):
        base: Literal["observe", "guard"]
        base = "guard" if acts or wanted.policy == "guard" else "observe"
        return ChosenPolicy(base, name=base, origin=wanted.origin)
    path = wanted.path
    file = None if path is None else str(path.absolute())
    known = _checked(file or wanted.policy)
    if known is None:
        return ChosenPolicy("guard" if acts else "observe", origin=wanted.origin)
    return ChosenPolicy(
        "guard" if acts or known["acts"] else "observe",
        text=str(known["text"]),
        name=str(known["name"]),
        origin=file or wanted.origin,
    )


def _checked(policy: str) -> dict[str, object] | None:
    """What ``agent.policy_check`` says about it; None, and a line in the log, where it cannot."""
    import json
    import subprocess

    check = own_python("lossguard.agent.policy_check", policy)
    try:
        done = subprocess.run(
            check,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd="/",
            timeout=_CHECK_TIMEOUT_S,
            check=False,
        )
        if done.returncode == 0:
            return dict(json.loads(done.stdout))
    except Exception as error:
        log.error("policy %s could not be read (%s); it does without", policy, error)
        return None
    if done.returncode == ExitCode.CONFIG:
        raise ConfigError(done.stderr.strip())
    log.error("policy %s could not be read (%s); it does without",
              policy, done.stderr.strip()[-500:] or f"exit code {done.returncode}")  # fmt: skip
    return None


def _existing(wanted: Wanted) -> Wanted:
    path = wanted.path
    if path is None or path.is_file():
        return wanted
    whose = "" if wanted.origin == "as asked" else f"{wanted.origin}: "
    if path.suffix == ".toml" or len(path.parts) > 1:
        raise ConfigError(f"{whose}there is no policy file {wanted.policy!r}")
    raise ConfigError(f"{whose}policy must be {no_such_policy(wanted.policy)}")


def no_such_policy(name: str) -> str:
    """What a policy's name may be, and what this one was perhaps meant to be."""
    import difflib

    near = difflib.get_close_matches(name, shipped_policies(), 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"one of {', '.join(shipped_policies())}, or a TOML file; got {name!r}{hint}"


def _nearest_file(folder: Path) -> Path | None:
    """``lossguard.toml`` or a ``pyproject.toml`` with ``[tool.lossguard]``, here or above."""
    for place in (folder, *folder.parents):
        own, project = place / "lossguard.toml", place / "pyproject.toml"
        if own.is_file():
            return own
        if project.is_file() and _names_us(project):
            return project
    return None


def _names_us(project: Path) -> bool:
    try:
        return bool(_PYPROJECT_TABLE.search(project.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError):
        return False
