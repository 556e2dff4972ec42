"""Every exception of Lossguard, and its exit codes.

LossguardError
  UsageError           the command line makes no sense; says what would                 (2)
  ConfigError          a setting is wrong; names the key and what to write      (78)
  AgentUnreachable     no agent answers where one was required                  (69)
  AgentAlreadyRunning  another agent owns this endpoint                         (73)
  InputError           a file or a message cannot be read; names it             (65)
  CannotAttach         that process is none that can be watched; says why       (69)
  AlreadyAttached      that process is watched already                          (73)
  NotAllowed           that process is not ours to look into; says what to do   (77)
SystemExit
  StopTraining         the one exception that reaches training code, on "stop"  (75)
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What ``lossguard`` exits with; the numbers are those of sysexits.h."""

    OK = 0
    ERROR = 1
    USAGE = 2
    DATA = 65
    UNREACHABLE = 69
    ALREADY_RUNNING = 73
    STOPPED = 75
    NOT_ALLOWED = 77
    CONFIG = 78


class LossguardError(Exception):
    """Something of Lossguard's went wrong; says what, with which value, and what to do."""

    exit_code = ExitCode.ERROR


class UsageError(LossguardError):
    """The command line makes no sense."""

    exit_code = ExitCode.USAGE


class ConfigError(LossguardError):
    """A setting is wrong."""

    exit_code = ExitCode.CONFIG


class AgentUnreachable(LossguardError):
    """No agent answers where one was required."""

    exit_code = ExitCode.UNREACHABLE


class AgentAlreadyRunning(LossguardError):
    """Another agent owns this endpoint."""

    exit_code = ExitCode.ALREADY_RUNNING


class InputError(LossguardError):
    """A file or a message cannot be read."""

    exit_code = ExitCode.DATA


class CannotAttach(LossguardError):
    """A process cannot be watched: it is not there, not Python, or trains nothing."""

    exit_code = ExitCode.UNREACHABLE


class AlreadyAttached(LossguardError):
    """A process is watched already."""

    exit_code = ExitCode.ALREADY_RUNNING


class NotAllowed(LossguardError):
    """A process belongs to somebody else, or the kernel keeps it to itself."""

    exit_code = ExitCode.NOT_ALLOWED


class StopTraining(SystemExit):
    """Raised at a step boundary when the run was told to stop.

    A ``SystemExit``, so that ``except Exception`` around a training step does not swallow it,
    ``finally`` blocks still run, and the process exits with code 75.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(int(ExitCode.STOPPED))
        self.reason = reason
