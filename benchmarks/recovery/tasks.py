"""Three small real trainings: a GPT and a GRU on text, a small ResNet on handwritten digits."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

_EXAMPLES = Path(__file__).parents[2] / "examples"
_LENGTH = 32


@dataclass
class Task:
    """A model, its optimizer, and its data. ``batch`` and ``held_out``: inputs and classes."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    classes: int
    batch: Callable[[torch.Generator], tuple[Tensor, Tensor]]
    held_out: tuple[Tensor, Tensor]
    middle: nn.Module
    """A module half way through, for faults of the forward."""

    def each_loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy of each prediction [nats]."""
        logits = self.model(x)
        return cross_entropy(logits.flatten(0, -2), y.flatten(), reduction="none")

    @torch.no_grad()
    def validate(self) -> float:
        """Mean loss on data that is never trained on."""
        self.model.eval()
        losses = [
            self.each_loss(x, y)
            for x, y in zip(*(part.split(128) for part in self.held_out), strict=True)
        ]
        self.model.train()
        return torch.cat(losses).mean().item()


def _text() -> tuple[Tensor, int]:
    text = (_EXAMPLES / "data" / "kjv.txt").read_text(encoding="ascii")
    alphabet = sorted(set(text))
    index = {character: token for token, character in enumerate(alphabet)}
    return torch.tensor([index[character] for character in text]), len(alphabet)


def _windows(tokens: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    windows = tokens[starts[:, None] + torch.arange(_LENGTH + 1)]
    return windows[:, :-1], windows[:, 1:]


def _of_text(
    make: Callable[[int], nn.Module], middle: str, optimizer: Callable[..., torch.optim.Optimizer]
) -> Task:
    tokens, classes = _text()
    train, held_out = tokens[: -len(tokens) // 10], tokens[-len(tokens) // 10 :]
    model = make(classes)

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        last = len(train) - _LENGTH - 1
        return _windows(train, torch.randint(last, (24,), generator=generator))

    chosen = torch.arange(0, len(held_out) - _LENGTH - 1, 331)
    return Task(
        model, optimizer(model.parameters()), classes, batch, _windows(held_out, chosen),
        model.get_submodule(middle),
    )  # fmt: skip


def gpt() -> Task:
    """Two pre-norm blocks, 64 wide, AdamW."""
    sys.path.insert(0, str(_EXAMPLES))
    from train_gpt import GPT

    return _of_text(
        lambda classes: GPT(classes, _LENGTH, layers=2, width=64),
        "blocks.1.mlp",
        lambda p: torch.optim.AdamW(p, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True),
    )


class _Gru(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, 48)
        self.recurrent = nn.GRU(48, 96, batch_first=True)
        self.norm = nn.LayerNorm(96)
        self.head = nn.Linear(96, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.recurrent(self.embedding(tokens))
        logits: Tensor = self.head(self.norm(states))
        return logits


def gru() -> Task:
    """A recurrent network, Adam, not fused."""
    return _of_text(_Gru, "norm", lambda p: torch.optim.Adam(p, lr=3e-3))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels),
            nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = (x + self.branch(x)).relu()
        return out


def _noisy(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """With noise of standard deviation 1, where pixels are from -1 to 1."""
    return pictures + torch.randn(pictures.shape, generator=generator)


def resnet() -> Task:
    """Batch norm, SGD with momentum, the digits of scikit-learn under as much noise as picture.

    With less noise the loss is near zero, and that of the held-out pictures hangs on a handful of
    them: then one lost update of a healthy training moves it by a percent.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8.0 - 1.0
    y = torch.tensor(digits.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    train = x[:1400], y[:1400]
    draws, fixed = 8, torch.Generator().manual_seed(1)
    held_out = _noisy(x[1400:].repeat(draws, 1, 1, 1), fixed), y[1400:].repeat(draws)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        _Residual(16), _Residual(16), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.2),
        nn.Linear(64, 10),
    )  # fmt: skip

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(train[0]), (64,), generator=generator)
        return _noisy(train[0][chosen], generator), train[1][chosen]

    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4)
    return Task(model, optimizer, 10, batch, held_out, model[4])


TASKS: dict[str, Callable[[], Task]] = {"gpt": gpt, "gru": gru, "resnet": resnet}
