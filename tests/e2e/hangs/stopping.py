"""A small training that stops in a way of its own at a step; and its healthy twins, that do not."""

import ctypes
import os
import signal
import sys
import time

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

AT = 30
STEPS = 60
LONG_S = 12.0
how = sys.argv[1]


class Rows(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 4 * (STEPS + 40)

    def __getitem__(self, index: int) -> torch.Tensor:
        if index >= 4 * AT:
            if how == "worker_waits":
                time.sleep(1000.0)
            if how == "worker_killed":
                os.kill(os.getpid(), signal.SIGKILL)
        return torch.randn(16)


def endless(step: int) -> None:
    while how == "endless" and step == AT:
        pass


def evaluate(model: nn.Module) -> None:
    model.eval()
    with torch.no_grad():
        model(torch.randn(4, 16))
        time.sleep(LONG_S)
    model.train()


def save_checkpoint() -> None:
    time.sleep(LONG_S)


def stop(model: nn.Module) -> None:
    if how == "native":
        ctypes.PyDLL(None).sleep(90)
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "raises":
        raise ValueError("a bad thing")
    if how == "exits":
        sys.exit(3)
    if how == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    if how == "evaluates":
        evaluate(model)
    if how == "saves":
        save_checkpoint()


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loader = DataLoader(Rows(), batch_size=4, num_workers=int(how.startswith("worker")))
    for step, x in enumerate(loader, start=1):
        optimizer.zero_grad()
        loss = model(x).pow(2).mean()
        endless(step)
        loss.backward()
        optimizer.step()
        time.sleep(0.1)
        if step == AT:
            stop(model)
        if step == STEPS:
            break


if __name__ == "__main__":
    main()
