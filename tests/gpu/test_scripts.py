"""Scripts under ``lossguard run`` on a GPU: trouble, death, and what is told of the device."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

from lossguard.home import Home
from tests.e2e.live import EXAMPLE, actions, incidents, runs
from tests.support.waiting import eventually


def launch(*command: str | Path, cwd: Path, timeout_s: float = 110.0) -> tuple[int, str, str]:
    """To its end."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd, capture_output=True, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def script(folder: Path, text: str) -> Path:
    """As a file."""
    path = folder / "train.py"
    path.write_text(textwrap.dedent(text))
    return path


def test_a_guarded_run_survives_what_kills_it_bare(tmp_path: Path, served_home: Home) -> None:
    """The example with its three accidents, on the GPU."""
    common = ("--steps", "400", "--device", "cuda", "--print-every", "100", "--json")
    for name, words in (
        ("clean", ()),
        ("bare", ("--trouble",)),
    ):
        code, _, said = launch(EXAMPLE, *common, tmp_path / f"{name}.json", *words, cwd=tmp_path)
        assert code == 0, said
    guard = ("-m", "lossguard", "run", "--guard", "--name", "gpt")
    code, said, errors = launch(
        *guard, EXAMPLE, *common, tmp_path / "guarded.json", "--trouble", cwd=tmp_path
    )
    assert code == 0, errors
    ends = {
        name: json.loads((tmp_path / f"{name}.json").read_text())["val_loss"]
        for name in ("clean", "bare", "guarded")
    }
    assert ends["bare"] is None
    assert ends["guarded"] < 1.03 * ends["clean"]
    assert "rollback" in actions(incidents(served_home))
    (run,) = runs(served_home)
    assert {
        "memory_allocated", "memory_reserved", "memory_total", "gpu_utilization",
        "gpu_temperature", "gpu_power",
    } <= set(run.metrics)  # fmt: skip


def test_a_host_that_waits_for_its_device_in_vain_hangs_at_that_line(
    tmp_path: Path, served_home: Home
) -> None:
    """A kernel that does not end."""
    trouble = "step == 40 and (torch.cuda._sleep(90_000_000_000), torch.cuda.synchronize())"
    path = script(tmp_path, TRAIN.format(trouble=trouble))
    code, _, errors = launch("-m", "lossguard", "run", "--name", "hang", path, cwd=tmp_path)
    assert code == 0, errors
    (found,) = eventually(
        lambda: [line for line in incidents(served_home) if line.state != "open"] or None
    )
    assert found.symptom == "hang"
    assert "train.py:9" in found.where
    assert "synchronize" in found.where


TRAIN = """
    import torch
    from torch import nn

    model = nn.Sequential(nn.Embedding(100, 32), nn.Linear(32, 100)).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for step in range(60):
        tokens = torch.randint(100, (8, 16), device="cuda")
        {trouble}
        loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.cuda.synchronize()
    print("done", float(loss))
"""


def test_a_fault_on_the_device_is_the_script_s_own(tmp_path: Path, served_home: Home) -> None:
    """An index out of range poisons the context: every later call fails. The script's error and
    its exit code are its own, and nothing of ours hangs at the end."""
    path = script(tmp_path, TRAIN.format(trouble="tokens[0, 0] = 100 if step == 40 else 1"))
    bare = launch(path, cwd=tmp_path)
    ours = launch("-m", "lossguard", "run", "--guard", "--name", "fault", path, cwd=tmp_path)
    assert bare[0] == ours[0] == 1
    assert "device-side assert" in ours[2]
    assert "~CUDAEvent" not in ours[2]
    (found,) = eventually(lambda: incidents(served_home))
    assert "device-side assert" in found.message


def test_running_out_of_device_memory_is_told_as_that(tmp_path: Path, served_home: Home) -> None:
    """The error is the script's own, and the incident names it."""
    trouble = "held = torch.empty(1 << 40, device='cuda') if step == 40 else None"
    path = script(tmp_path, TRAIN.format(trouble=trouble))
    code, _, errors = launch("-m", "lossguard", "run", "--name", "oom", path, cwd=tmp_path)
    assert code == 1
    assert "OutOfMemoryError" in errors
    (found,) = eventually(lambda: incidents(served_home))
    assert "torch.OutOfMemoryError" in found.message


def test_workers_and_pinned_batches(tmp_path: Path, served_home: Home) -> None:
    """A DataLoader with workers and a pinning thread, mixed precision, GradScaler, a NaN."""
    text = """
        import torch
        from torch import nn
        from torch.utils.data import DataLoader, TensorDataset

        torch.manual_seed(0)
        data = TensorDataset(torch.randn(2048, 64), torch.randint(10, (2048,)))
        loader = DataLoader(data, 16, shuffle=True, num_workers=2, pin_memory=True)
        model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)).cuda()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        scaler = torch.amp.GradScaler("cuda")
        for step, (x, y) in enumerate(loader):
            x, y = x.cuda(non_blocking=True), y.cuda(non_blocking=True)
            if step == 80:
                x = x * float("nan")
            with torch.autocast("cuda", torch.float16):
                loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        print("done", float(loss))
    """
    path = script(tmp_path, text)
    code, said, errors = launch(
        "-m", "lossguard", "run", "--guard", "--name", "loader", path, cwd=tmp_path
    )
    assert code == 0, errors
    assert said.startswith("done")
    (run,) = runs(served_home)
    assert (run.step, run.dropped) == (128, 0)
