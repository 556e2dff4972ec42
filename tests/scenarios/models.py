"""Small models as people write them."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def mlp(*widths: int, activation: type[nn.Module] = nn.ReLU, norm: bool = False) -> nn.Sequential:
    """Linear layers with an activation between them, normalised before it if asked."""
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise(widths)):
        layers.append(nn.Linear(before, after))
        if i < len(widths) - 2:
            layers += [nn.LayerNorm(after)] if norm else []
            layers.append(activation())
    return nn.Sequential(*layers)


class Block(nn.Module):
    """A transformer layer with one causal head; the norms before the branches, or after them."""

    def __init__(self, width: int, *, dropout: float = 0.0, post_norm: bool = False) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def attention(self, x: Tensor) -> Tensor:
        """(batch, length, width) to the same."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        mixed: Tensor = self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        return mixed

    def forward(self, x: Tensor) -> Tensor:
        if self.post_norm:
            x = self.norm1(x + self.attention(x))
            out: Tensor = self.norm2(x + self.mlp(x))
            return out
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class GPT(nn.Module):
    """Predicts the next token at every position."""

    def __init__(
        self,
        vocabulary: int,
        *,
        length: int = 32,
        layers: int = 2,
        width: int = 32,
        dropout: float = 0.0,
        post_norm: bool = False,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(
            Block(width, dropout=dropout, post_norm=post_norm) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                deep = name.endswith(("out.weight", "mlp.2.weight"))
                std = 0.02 / math.sqrt(2 * layers) if deep and not post_norm else 0.02
                nn.init.normal_(parameter, std=std)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (batch, length) to logits (batch, length, vocabulary)."""
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


class NextCharacter(nn.Module):
    """Predicts the character after a few others: an embedding and a hidden layer."""

    def __init__(self, vocabulary: int, length: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, 16)
        self.body = mlp(16 * length, 128, vocabulary, activation=nn.GELU)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (batch, length) to logits (batch, vocabulary)."""
        logits: Tensor = self.body(self.tokens(tokens).flatten(1))
        return logits


class ConvNet(nn.Module):
    """Two convolutions with batch norm, dropout and a linear head, for pictures of 12 by 12."""

    def __init__(self, classes: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
        )  # fmt: skip
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(16 * 3 * 3, classes)

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures (batch, 1, 12, 12) to logits (batch, classes)."""
        logits: Tensor = self.head(self.dropout(self.features(pictures).flatten(1)))
        return logits


class Recurrent(nn.Module):
    """Reads a series with plain recurrent layers, and classifies it by the last state."""

    def __init__(self, dims: int, classes: int, *, layers: int = 1, kind: str = "tanh") -> None:
        super().__init__()
        self.rnn = nn.RNN(dims, 24, num_layers=layers, nonlinearity=kind, batch_first=True)
        self.head = nn.Linear(24, classes)

    def forward(self, series: Tensor) -> Tensor:
        """Series (batch, length, dims) to logits (batch, classes)."""
        states, _ = self.rnn(series)
        logits: Tensor = self.head(states[:, -1])
        return logits
