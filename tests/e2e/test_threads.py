"""Threads that train, each its own model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lossguard.home import Home

pytestmark = pytest.mark.e2e


@pytest.mark.slow
def test_threads_that_each_train_a_model_live(tmp_path: Path, own_home: Home) -> None:
    """Under ``lossguard run``: exit code 0, as plain, however they interleave."""
    script = tmp_path / "threads.py"
    script.write_text(_THREADS)
    done = subprocess.run(
        [sys.executable, "-m", "lossguard", "run", "--guard", str(script)],
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "3 trained\n"), done.stderr


_THREADS = """
import threading, torch
torch.set_num_threads(1)
done = []
def work(seed):
    model = torch.nn.Sequential(*[torch.nn.Linear(32, 32) for _ in range(4)])
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(300):
        model(torch.randn(16, 32)).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    done.append(seed)
threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
for t in threads: t.start()
for t in threads: t.join()
print(len(done), "trained")
"""
