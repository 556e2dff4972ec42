"""Jobs of several ranks: processes of this host that find each other through gloo."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
import torch.distributed as dist

from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[3]


def fork_ranks(
    world: int, work: Callable[[int], None], patience_s: float | None = None
) -> list[int | None]:
    """``work(rank)`` on each of so many ranks, which share what was imported; their exit codes.

    Each that takes longer [s] is killed.
    """
    fork = multiprocessing.get_context("fork")
    port = free_port()
    ranks = [
        fork.Process(target=_work_on_rank, args=(work, rank, world, port), daemon=True)
        for rank in range(world)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(patience_s)
        process.kill()
    for process in ranks:
        process.join()
    return [process.exitcode for process in ranks]


def _work_on_rank(work: Callable[[int], None], rank: int, world: int, port: int) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    work(rank)


def environment(home: Path, **more: str) -> dict[str, str]:
    """Of a job in this home: no setting of Lossguard but these."""
    known = {k: v for k, v in os.environ.items() if not k.startswith("LOSSGUARD")}
    return {**known, "LOSSGUARD_HOME": str(home), "OMP_NUM_THREADS": "1", **more}


def run_job(*arguments: str, env: dict[str, str], timeout_s: float) -> None:
    """``python ARGUMENTS`` to its good end. What takes longer is killed, with all its ranks."""
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            _, said = process.communicate(timeout=timeout_s)
        finally:
            if process.poll() is None:
                for one in (*psutil.Process(process.pid).children(recursive=True), process):
                    one.kill()
    assert process.returncode == 0, said[-4000:]
    sys.stderr.write(said[-4000:])
