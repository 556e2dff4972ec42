"""Jobs of several ranks: processes of this host that find each other through gloo.

With LOSSGUARD_TEST_DEVICE=cuda they train on one GPU and speak NCCL. That refuses two ranks of one
host on one device, so each calls itself another host, and they speak through sockets.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psutil
import torch
import torch._dynamo  # the first optimizer of every rank would import it
import torch.distributed as dist

from tests.support.ports import free_port
from tests.support.warm_python import Program

ROOT = Path(__file__).resolve().parents[3]
_NCCL_PATIENCE = timedelta(seconds=20)
DEVICE = torch.device(os.environ.get("LOSSGUARD_TEST_DEVICE", "cpu"))


def fork_ranks(
    world: int, work: Callable[[int], None], patience_s: float | None = None
) -> list[int | None]:
    """``work(rank)`` on each of so many ranks, which share what was imported; their exit codes.

    Each that takes longer [s] is killed.
    """
    gc.freeze()  # what is here now is neither walked over nor copied in any rank
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
    if DEVICE.type == "cuda":
        os.environ |= {"NCCL_HOSTID": f"host-{rank}", "NCCL_SOCKET_IFNAME": "lo"}
        os.environ["LOSSGUARD_VOTE_ON_CUDA"] = "1"
        torch.cuda.set_device(0)
    if DEVICE.type == "cuda":
        dist.init_process_group("nccl", timeout=_NCCL_PATIENCE)
    else:
        dist.init_process_group("gloo")
    work(rank)


def environment(home: Path, **more: str) -> dict[str, str]:
    """Of a job in this home: no setting of Lossguard but these."""
    known = {k: v for k, v in os.environ.items() if not k.startswith("LOSSGUARD")}
    return {**known, "LOSSGUARD_HOME": str(home), "OMP_NUM_THREADS": "1", **more}


def run_job(*arguments: str, env: dict[str, str], timeout_s: float) -> None:
    """``python ARGUMENTS`` to its good end. What takes longer is killed, with all its ranks."""
    with tempfile.NamedTemporaryFile() as said:
        process = Program(arguments, cwd=ROOT, env=env, output=Path(said.name))
        try:
            code = process.wait(timeout_s)
        finally:
            if process.poll() is None:
                for one in psutil.Process(process.pid).children(recursive=True):
                    one.kill()
                process.kill()
            text = said.read().decode(errors="replace")[-4000:]
            sys.stderr.write(text)
    assert code == 0, text
