"""What the trainings learn: text, points that a teacher has labelled, small pictures, series."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

CORPUS = Path(__file__).parents[2] / "examples" / "data" / "kjv.txt"
_CHARACTERS = 300_000


@lru_cache(maxsize=1)
def _corpus() -> tuple[Tensor, int]:
    text = CORPUS.read_text(encoding="ascii")[:_CHARACTERS]
    alphabet = sorted(set(text))
    index = {character: token for token, character in enumerate(alphabet)}
    return torch.tensor([index[character] for character in text]), len(alphabet)


class Text:
    """Windows of the King James Bible, character by character; the last tenth is for validation."""

    def __init__(self, seed: int, batch_size: int = 8, length: int = 32) -> None:
        tokens, self.vocabulary = _corpus()
        self.train, self.val = tokens[: -len(tokens) // 10], tokens[-len(tokens) // 10 :]
        self.batch_size = batch_size
        self.length = length
        self._generator = torch.Generator().manual_seed(seed)

    def batch(self, split: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Inputs and the characters that follow, (batch_size, length) each."""
        split = self.train if split is None else split
        last = len(split) - self.length - 1
        starts = torch.randint(last, (self.batch_size, 1), generator=self._generator)
        windows = split[starts + torch.arange(self.length + 1)]
        return windows[:, :-1], windows[:, 1:]


class Points:
    """Normal points, labelled by a random network with some labels wrong.

    ``train`` and ``val`` are (inputs (n, dims), labels (n,)).
    """

    def __init__(
        self, seed: int, samples: int = 4096, dims: int = 16, classes: int = 4, wrong: float = 0.05
    ) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self.dims, self.classes = dims, classes
        g = self._generator
        first = torch.randn(dims, 32, generator=g) / dims**0.5
        second = torch.randn(32, classes, generator=g)
        x = torch.randn(samples + 1024, dims, generator=g)
        y = ((3.0 * x @ first).tanh() @ second).argmax(1)
        lies = torch.rand(len(y), generator=g) < wrong
        y = torch.where(lies, torch.randint(classes, y.shape, generator=g), y)
        self.train = (x[:samples], y[:samples])
        self.val = (x[samples:], y[samples:])

    def batch(self, size: int = 32) -> tuple[Tensor, Tensor]:
        """Drawn with replacement from ``train``."""
        x, y = self.train
        chosen = torch.randint(len(y), (size,), generator=self._generator)
        return x[chosen], y[chosen]


class Pictures:
    """Grey pictures (n, 1, 12, 12) with values from 0 to 255: a class is a pattern in noise."""

    def __init__(self, seed: int, classes: int = 6) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self.classes = classes
        self._patterns = torch.rand(classes, 1, 12, 12, generator=self._generator)

    def batch(self, size: int = 32) -> tuple[Tensor, Tensor]:
        """New pictures every time."""
        y = torch.randint(self.classes, (size,), generator=self._generator)
        noise = torch.rand(size, 1, 12, 12, generator=self._generator)
        return 255.0 * (0.35 * self._patterns[y] + 0.65 * noise), y


class Series:
    """Sequences (n, length, dims) whose class is that of their first steps: a memory is needed."""

    def __init__(self, seed: int, length: int = 40, dims: int = 4, classes: int = 4) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self.length, self.dims, self.classes = length, dims, classes
        self._patterns = 0.7 * torch.randn(classes, 5, dims, generator=self._generator)

    def batch(self, size: int = 16) -> tuple[Tensor, Tensor]:
        """New sequences every time."""
        y = torch.randint(self.classes, (size,), generator=self._generator)
        x = torch.randn(size, self.length, self.dims, generator=self._generator)
        x[:, :5] += self._patterns[y]
        return x, y


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over samples, or over positions: logits (..., classes), targets (...)."""
    return nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten())
