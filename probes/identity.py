"""Who this training process is: run, rank, script, versions."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
import sys
import time
from pathlib import Path

from lossguard.probes import wire


def make_hello(
    name: str | None, policy: str, policy_text: str = "", *, part: str = ""
) -> wire.Hello:
    """The first message of this rank. Ranks started by one torchrun share one run id.

    ``part`` tells the runs of one process apart.
    """
    from lossguard.probes.surroundings import versions

    name = _clean(name or os.environ.get("LOSSGUARD_NAME") or _script_name())
    return wire.Hello(
        run=f"{_run_id(name)}.{part}" if part else _run_id(name),
        protocol=wire.PROTOCOL,
        name=f"{name}.{part}" if part else name,
        rank=int(os.environ.get("RANK", "0")),
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
        pid=os.getpid(),
        host=socket.gethostname(),
        started_s=time.time(),
        policy=policy,
        policy_text=policy_text,
        script=[str(part) for part in sys.argv],
        versions=versions(),
    )


def _script_name() -> str:
    stem = Path(sys.argv[0] or "run").stem if sys.argv else "run"
    return stem if stem not in ("", "-c", "-m", "__main__") else "run"


def _clean(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:64] or "run"


def _run_id(name: str) -> str:
    if given := os.environ.get("LOSSGUARD_RUN"):
        return _clean(given)
    if elastic := os.environ.get("TORCHELASTIC_RUN_ID"):
        restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        where = os.environ.get("MASTER_ADDR", "") + os.environ.get("MASTER_PORT", "")
        digest = hashlib.sha256(f"{elastic}|{where}|{restart}".encode()).hexdigest()[:8]
        return f"{name}-{digest}"
    return f"{name}-{time.strftime('%m%d-%H%M%S')}-{secrets.token_hex(2)}"
