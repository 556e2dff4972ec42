"""What ``lossguard doctor`` looks at, a function each: findings, and what to type where it ails.

None of it changes anything. A check that fails in itself is a finding, too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
import zmq

import lossguard
from lossguard.agent import feed
from lossguard.agent.alerting import is_wanted
from lossguard.agent.client import Client
from lossguard.agent.database import SCHEMA
from lossguard.agent.keyring import Keyring
from lossguard.agent.launching import is_running
from lossguard.agent.listening import check_listening
from lossguard.agent.settings import load_settings
from lossguard.connection import Connection
from lossguard.errors import AgentUnreachable, ConfigError, LossguardError
from lossguard.home import Home
from lossguard.key_files import read_key_file

_WAL_RESET_FIXED = (3, 51, 3)
_LEAST_DISK_BYTES = 100 << 20
_LITTLE_DISK_BYTES = 1 << 30
_CLOCK_SKEW_S = 5.0
AGENT_ANSWERS_S = 5.0
"""An agent that has not answered by then is stuck, or not there [s]."""
RESTART = "lossguard agent --stop; the next command from here starts one that does"
_YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the report."""

    status: Literal["ok", "warn", "fail"]
    check: str
    said: str
    do: str = ""
    """What to type, or where to look; empty where nothing is to be done."""


Check: TypeAlias = Callable[[Home], Iterator[Finding]]


def _ok(check: str, said: str) -> Finding:
    return Finding(status="ok", check=check, said=said)


def _warn(check: str, said: str, do: str) -> Finding:
    return Finding(status="warn", check=check, said=said, do=do)


def _fail(check: str, said: str, do: str) -> Finding:
    return Finding(status="fail", check=check, said=said, do=do)


def folders(home: Home) -> Iterator[Finding]:
    """Ours, no links, and closed to others."""
    for name, path in (("state", home.state), ("runtime", home.runtime), ("logs", home.logs)):
        check = f"{name} folder"
        try:
            info = path.lstat()
        except FileNotFoundError:
            parent = next(one for one in path.parents if one.exists())
            if os.access(parent, os.W_OK | os.X_OK):
                yield _ok(check, f"{path} is not there yet; it is made when it is needed")
            else:
                yield _fail(check, f"{path} cannot be made: {parent} cannot be written",
                            "set LOSSGUARD_HOME to a folder of your own")  # fmt: skip
            continue
        if stat.S_ISLNK(info.st_mode) and name == "runtime":
            yield _fail(check, f"{path} is a link", f"rm {path}")
        elif info.st_uid != os.getuid() and not stat.S_ISLNK(info.st_mode):
            yield _fail(
                check, f"{path} belongs to uid {info.st_uid}", f"sudo chown -R $USER {path}"
            )
        elif name == "runtime" and info.st_mode & 0o077:
            yield _fail(check, f"others can reach into {path}", f"chmod 700 {path}")
        elif not os.access(path, os.W_OK | os.X_OK):
            yield _fail(check, f"{path} cannot be written", f"chmod u+rwx {path}")
        else:
            yield _ok(check, str(path))


def sockets(home: Home) -> Iterator[Finding]:
    """For their owner only."""
    for endpoint in (home.here.probe_endpoint, home.here.viewer_endpoint):
        path = Path(endpoint.removeprefix("ipc://"))
        if path.exists() and path.stat().st_mode & 0o077:
            yield _fail("socket", f"{path} is open to others", f"chmod 600 {path}")


def settings(home: Home) -> Iterator[Finding]:
    """``agent.toml`` makes sense."""
    try:
        load_settings(home)
    except ConfigError as error:
        yield _fail("settings", str(error), f"edit {home.settings_path}")
    else:
        there = home.settings_path.exists()
        yield _ok("settings", str(home.settings_path) if there else "none: all as it comes")


def agent(home: Home) -> Iterator[Finding]:
    """Whether one answers, and speaks our language."""
    remote = bool(home.remote)
    if not remote and not is_running(home):
        yield _ok("agent", "none is running; a run starts one")
        return
    try:
        if remote and home.key_file is not None and read_key_file(home.key_file).role == "probe":
            yield _let_in_as_probe(home)
            return
        with Client(home) as client:
            answer = client.request(feed.Ping(), timeout_s=AGENT_ANSWERS_S)
    except AgentUnreachable as error:
        do = "see what it says" if remote else f"see {home.agent_log_path}; lossguard agent --stop"
        yield _fail("agent", str(error), do)
        return
    except ConfigError as error:
        yield _fail("agent", str(error), "see what it says")
        return
    if not isinstance(answer, feed.Pong):
        why = answer.why if isinstance(answer, feed.Trouble) else type(answer).__name__
        yield _fail("agent", f"it answers: {why}", "see what it says")
    elif answer.version != lossguard.__version__:
        theirs, ours = answer.version, lossguard.__version__
        said = f"agent {answer.agent_pid} is lossguard {theirs}, this is {ours}"
        yield _warn("agent", said, "lossguard agent --stop; the next command starts this one")
    else:
        yield _ok("agent", f"agent {answer.agent_pid} answers, lossguard {answer.version}")
    if isinstance(answer, feed.Pong):
        yield from _alerts(home, answer)
        for name, why in answer.outlets.items():
            yield _fail(name, why, "see what it says") if why else _ok(name, "it works")


def _let_in_as_probe(home: Home) -> Finding:
    """On a host that trains. Raises ConfigError for a key that makes no sense."""
    link = Connection(zmq.Context.instance(), home, "probes", {zmq.LINGER: 0})
    deadline = time.monotonic() + AGENT_ANSWERS_S
    try:
        while not link.is_open and not link.trouble and time.monotonic() < deadline:
            time.sleep(0.05)
            link.look()
        if link.is_open:
            return _ok("agent", f"the agent at {link.endpoint} lets this host's runs in")
        why = link.trouble or f"{link.endpoint} does not answer"
        return _fail("agent", why, "see what it says")
    finally:
        link.close(linger=0)


def _alerts(home: Home, agent: feed.Pong) -> Iterator[Finding]:
    """Whether the agent reaches those whom it tells, and tells those whom it should."""
    for name, why in agent.alerts.items():
        if why:
            yield _fail("alerts", f"they do not get through to {name}: {why}", "see what it says")
        else:
            yield _ok("alerts", f"agent {agent.agent_pid} tells {name}")
    try:
        if said := untold(home, agent):
            yield _warn("alerts", said, RESTART)
    except ConfigError:  # of agent.toml, which has a check of its own
        return


def untold_by_agent(home: Home) -> str:
    """As ``untold``, and whom it tries to tell in vain, of the agent that runs on this host; empty
    where none answers."""
    if home.remote or not is_running(home):
        return ""
    try:
        with Client(home) as client:
            answer = client.request(feed.Ping(), timeout_s=AGENT_ANSWERS_S)
    except AgentUnreachable:
        return ""
    if not isinstance(answer, feed.Pong):
        return ""
    through = {name: why for name, why in answer.alerts.items() if not why}
    return untold(home, msgspec.structs.replace(answer, alerts=through))


def untold(home: Home, agent: feed.Pong) -> str:
    """Whom the settings and the environment here name and this agent does not tell, in words; empty
    where there is nobody. Raises ConfigError for settings that make no sense."""
    if home.remote or not is_wanted(wanted := load_settings(home)):
        return ""
    from lossguard.agent.alerts.targets import targets_of

    missed = [target.name for target in targets_of(wanted) if target.name not in agent.alerts]
    if not missed:
        return ""
    return (
        f"agent {agent.agent_pid} does not tell {', '.join(missed)}: it began with other settings, "
        "or in another environment"
    )


def database(home: Home) -> Iterator[Finding]:
    """Whole, and of a version that this lossguard knows."""
    if not home.database_path.exists():
        yield _ok("database", "none yet")
        return
    try:
        db = sqlite3.connect(_to_look_at(home.database_path), uri=True, timeout=5.0)
        with contextlib.closing(db):
            (version,) = db.execute("PRAGMA user_version").fetchone()
            (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        version, found = 0, str(error)
    if found != "ok":
        do = "lossguard agent --stop; the next agent sets it aside and begins anew"
        yield _fail("database", f"{home.database_path}: {found}", do)
    elif version > SCHEMA:
        yield _fail("database", f"it has schema {version}, this lossguard knows {SCHEMA}",
                    "pip install --upgrade lossguard")  # fmt: skip
    else:
        size = home.database_path.stat().st_size / (1 << 20)
        yield _ok("database", f"{home.database_path} is whole ({size:.1f} MiB, schema {version})")


def _to_look_at(path: Path) -> str:
    """Even a reader makes files beside a database; not where nobody has written since its close."""
    is_closed = not path.with_name(f"{path.name}-wal").exists()
    return f"{path.as_uri()}?mode=ro" + ("&immutable=1" if is_closed else "")


def sqlite(home: Home) -> Iterator[Finding]:
    """Versions before 3.51.3 can damage a database that two connections write; ours has one."""
    said = f"SQLite {sqlite3.sqlite_version}"
    if sqlite3.sqlite_version_info < _WAL_RESET_FIXED:
        said += ": fine with one writer, which is all there is; let no other program write the file"
    yield _ok("sqlite", said)


def keys(home: Home) -> Iterator[Finding]:
    """The agent's own, and the one that this side would use for another host's."""
    ring = Keyring(home)
    if ring.folder.exists():
        mode = ring.folder.stat().st_mode & 0o777
        if mode & 0o077:
            yield _fail("keys", f"others can reach into {ring.folder}", f"chmod 700 {ring.folder}")
        try:
            ring.agent()
            yield _ok("keys", f"the agent's, and those of {len(ring.clients())} clients")
        except ConfigError as error:
            yield _fail("keys", str(error), "see what it says")
    try:
        if (listen := load_settings(home).listen).tcp:
            check_listening(listen, ring)
            yield _ok("listen", f"{listen.tcp}, and the port after it for viewers")
    except ConfigError as error:
        yield _fail("listen", str(error), f"see {home.settings_path}")
    if home.key_file is not None:
        try:
            key = read_key_file(home.key_file)
            yield _ok("key file", f"{home.key_file}: {key.name}, a {key.role}'s")
        except ConfigError as error:
            yield _fail("key file", str(error), "see what it says")


def curve(home: Home) -> Iterator[Finding]:
    """Needed for other hosts only."""
    said = f"pyzmq {zmq.__version__}, libzmq {zmq.zmq_version()}"
    if zmq.has("curve"):
        yield _ok("libzmq", f"{said}, with CURVE")
    else:
        do = "pip install --force-reinstall pyzmq"
        yield _warn(
            "libzmq", f"{said}, without CURVE: no agent of another host, and none for one", do
        )


def stacks(home: Home) -> Iterator[Finding]:
    """Whether a run that hangs can be looked into."""
    tool = Path(sys.executable).with_name("py-spy")
    if not tool.exists() and shutil.which("py-spy") is None:
        yield _warn("py-spy", "it is not there: a run that hangs shows no stacks",
                    "pip install py-spy")  # fmt: skip
        return
    scope = _YAMA.read_text().strip() if _YAMA.exists() else "0"
    if scope != "0" and os.getuid() != 0:
        yield _warn("py-spy", f"kernel.yama.ptrace_scope is {scope}: it may look into no run",
                    "sudo sysctl kernel.yama.ptrace_scope=0")  # fmt: skip
    else:
        yield _ok("py-spy", "it may look into a run that hangs")


def disk(home: Home) -> Iterator[Finding]:
    """Room for what is kept."""
    place = home.state
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    said = f"{free / (1 << 30):.1f} GiB free at {place}"
    do = f"free some, or put LOSSGUARD_STATE elsewhere (du -sh {home.state})"
    if free < _LEAST_DISK_BYTES:
        yield _fail("disk", said, do)
    elif free < _LITTLE_DISK_BYTES:
        yield _warn("disk", said, do)
    else:
        yield _ok("disk", said)


def clock(home: Home) -> Iterator[Finding]:
    """The wall clock against that of the file system, and against what was written before."""
    place = home.state if home.state.exists() else Path(tempfile.gettempdir())
    with tempfile.NamedTemporaryFile(dir=place, prefix=".doctor-") as file:
        ahead = os.fstat(file.fileno()).st_mtime - time.time()
    if abs(ahead) > _CLOCK_SKEW_S:
        yield _warn(
            "clock", f"the file system at {place} is {ahead:+.0f} s off", "timedatectl status"
        )
        return
    newest = home.database_path.stat().st_mtime if home.database_path.exists() else 0.0
    if newest > time.time() + _CLOCK_SKEW_S:
        yield _warn("clock", "the database was written in what is the future by this clock",
                    "timedatectl status")  # fmt: skip
        return
    yield _ok("clock", time.strftime("%Y-%m-%d %H:%M:%S %z"))


CHECKS: list[Check] = [
    folders, sockets, settings, agent, database, sqlite, keys, curve, stacks, disk, clock,
]  # fmt: skip


def findings(home: Home) -> Iterator[Finding]:
    """What all checks say."""
    for check in CHECKS:
        try:
            yield from check(home)
        except (OSError, LossguardError) as error:
            yield _fail(check.__name__, f"{type(error).__name__}: {error}", "see what it says")
