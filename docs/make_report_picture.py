"""Draw docs/report.png: the report of a real guarded training with three accidents.

    python docs/make_report_picture.py [FOLDER]   # needs torch and chromium; a minute

The report itself stays in FOLDER, where one is given.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))

import train_gpt
from trouble import Trouble

import lossguard
from lossguard.agent.launching import ensure_agent
from lossguard.agent.operating import stop_agent
from lossguard.agent.report.writing import write_report
from lossguard.home import find_home

PICTURE = Path(__file__).with_name("report.png")
WIDTH, HEIGHT = 1000, 1560
_EVAL_EVERY = 40


def main() -> None:
    """Train, report, photograph."""
    with tempfile.TemporaryDirectory(prefix="lg-picture-") as scratch:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else scratch).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["LOSSGUARD_HOME"] = scratch
        home = find_home()
        ensure_agent(home)
        try:
            train(train_gpt.parse_args(["--trouble"]))
        finally:
            stop_agent(home)
        page = folder / "report.html"
        write_report(home, "gpt", str(page), None, None)
        write_report(home, "gpt", str(folder / "report.md"), None, str(folder / "plots"))
        photograph(page, scratch)


def train(args: argparse.Namespace) -> None:
    """The training of examples/train_gpt.py, which reports its validation loss as well."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    corpus = train_gpt.Corpus(train_gpt.CORPUS, args.block_size, args.batch_size, args.device)
    model = train_gpt.GPT(corpus.vocabulary, args.block_size)
    trouble = Trouble(model, args.steps, enabled=args.trouble)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: train_gpt.schedule(step, args.steps) * trouble.lr_factor()
    )
    data = torch.Generator().manual_seed(args.seed)
    guard = lossguard.attach(model, optimizer, scheduler=scheduler, policy="guard", name="gpt")
    for step in range(args.steps):
        trouble.begin(step)
        batch = trouble.spoil(corpus.batch(corpus.train, data))
        loss = train_gpt.loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        if (step + 1) % _EVAL_EVERY == 0:
            guard.log(val_loss=train_gpt.evaluate(model, corpus, 8))
    guard.close()


def photograph(page: Path, scratch: str) -> None:
    """Its upper part, by headless Chromium."""
    subprocess.run(
        [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--disable-background-networking", f"--window-size={WIDTH},{HEIGHT}",
            f"--user-data-dir={scratch}/profile", f"--screenshot={PICTURE}", page.as_uri(),
        ],
        check=True, capture_output=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()
