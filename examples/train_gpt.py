"""Train a small GPT, character by character, on the King James Bible.

    python train_gpt.py                      # 1.0 M parameters, under a minute on one core
    python train_gpt.py --trouble            # the same run with three real-life accidents in it
    lossguard run --guard train_gpt.py --trouble

An ordinary training script: a pre-norm transformer, AdamW, gradient clipping, linear warm-up and
cosine decay, a validation split. It knows nothing of Lossguard, which attaches from outside.
On the CPU a run is repeatable: the same seed and thread count give the same losses.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from trouble import Trouble

CORPUS = Path(__file__).parent / "data" / "kjv.txt"


# --- the model ----------------------------------------------------------------------------


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        # (batch, length, 3 * width) -> three of (batch, heads, length, width / heads)
        q, k, v = (
            part.view(batch, length, self.heads, -1).transpose(1, 2)
            for part in self.qkv(x).split(width, dim=-1)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out(y.transpose(1, 2).reshape(batch, length, width))
        return out


class MLP(nn.Module):
    """Two linear layers, four times as wide in between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.activation: nn.Module = nn.GELU()
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.activation(self.up(x)))
        return out


class Block(nn.Module):
    """One transformer layer. The norms stand before the branches, the residual path stays free."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class GPT(nn.Module):
    """Predicts the next character at every position."""

    def __init__(
        self, vocabulary: int, block_size: int, layers: int = 5, width: int = 128, heads: int = 4
    ) -> None:
        super().__init__()
        self.characters = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(block_size, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.apply(self._init)
        # Each block adds twice to the residual path; this keeps its variance flat with depth.
        for name, parameter in self.named_parameters():
            if name.endswith(("out.weight", "down.weight")):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers))

    @staticmethod
    def _init(module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (batch, length) to logits (batch, length, vocabulary)."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.characters(tokens) + self.positions(positions)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


# --- the data -----------------------------------------------------------------------------


class Batch(NamedTuple):
    """Equal shapes (batch, length): inputs, the characters that follow, and their loss weights."""

    inputs: Tensor
    targets: Tensor
    weights: Tensor


class Corpus:
    """The text as token ids; the last tenth is for validation."""

    def __init__(self, path: Path, block_size: int, batch_size: int, device: str) -> None:
        text = path.read_text(encoding="ascii")
        alphabet = sorted(set(text))
        index = {character: token for token, character in enumerate(alphabet)}
        tokens = torch.tensor([index[character] for character in text])
        self.vocabulary = len(alphabet)
        self.train, self.val = tokens[: -len(tokens) // 10], tokens[-len(tokens) // 10 :]
        self.block_size = block_size
        self.batch_size = batch_size
        self.device = device

    def batch(self, split: Tensor, generator: torch.Generator) -> Batch:
        """A batch of random windows of ``split``."""
        last = len(split) - self.block_size - 1
        starts = torch.randint(last, (self.batch_size, 1), generator=generator)
        windows = split[starts + torch.arange(self.block_size + 1)].to(self.device)
        inputs, targets = windows[:, :-1], windows[:, 1:]
        return Batch(inputs, targets, torch.ones(targets.shape, device=self.device))


# --- the training -------------------------------------------------------------------------


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    """Weighted mean cross-entropy [nats per character]."""
    logits = model(batch.inputs)
    each = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
    return (each * batch.weights.flatten()).mean()


@torch.no_grad()
def evaluate(model: nn.Module, corpus: Corpus, batches: int) -> float:
    """The loss on the validation split, on the same windows every time [nats per character]."""
    generator = torch.Generator().manual_seed(0)
    model.eval()
    losses = [loss_of(model, corpus.batch(corpus.val, generator)) for _ in range(batches)]
    model.train()
    return torch.stack(losses).mean().item()


def schedule(step: int, steps: int) -> float:
    """The factor on the learning rate: linear warm-up over 5 %, then a cosine down to 10 %."""
    warm_up = max(1, steps // 20)
    if step < warm_up:
        return (step + 1) / warm_up
    progress = min(1.0, (step - warm_up) / max(1, steps - warm_up))
    return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))


def train(args: argparse.Namespace) -> tuple[float, list[float]]:
    """The final validation loss, and the training loss of every step."""
    torch.manual_seed(args.seed)
    corpus = Corpus(CORPUS, args.block_size, args.batch_size, args.device)
    model = GPT(corpus.vocabulary, args.block_size).to(args.device)
    trouble = Trouble(model, args.steps, enabled=args.trouble)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=args.learning_rate, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: schedule(step, args.steps) * trouble.lr_factor()
    )
    # The order of the data has a generator of its own: it depends on the seed and on nothing else.
    data = torch.Generator().manual_seed(args.seed)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {args.steps} steps")

    losses: list[Tensor] = []
    started = time.perf_counter()
    for step in range(args.steps):
        trouble.begin(step)
        batch = trouble.spoil(corpus.batch(corpus.train, data))
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()

        losses.append(loss.detach())
        done = step + 1
        if done % args.print_every == 0:
            ms = (time.perf_counter() - started) / done * 1000
            lr = optimizer.param_groups[0]["lr"]
            line = f"step {done}/{args.steps}  loss {loss.item():.4f}  lr {lr:.2e}  {ms:.0f} ms"
            print(line, flush=True)
        if done % args.eval_every == 0 and done < args.steps:
            val_loss = evaluate(model, corpus, 8)
            print(f"step {done}/{args.steps}  val_loss {val_loss:.4f}", flush=True)

    val_loss = evaluate(model, corpus, 32)
    print(f"step {args.steps}/{args.steps}  final val_loss {val_loss:.4f}", flush=True)
    return val_loss, torch.stack(losses).tolist()


def finite(value: float) -> float | None:
    """JSON has no NaN and no infinity: null instead."""
    return value if math.isfinite(value) else None


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a small character-level GPT.")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--block-size", type=int, default=64, help="context length [characters]")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--print-every", type=int, default=20, metavar="STEPS")
    parser.add_argument("--eval-every", type=int, default=100, metavar="STEPS")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the losses here")
    parser.add_argument("--trouble", action="store_true", help="inject three accidents")
    return parser.parse_args(arguments)


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    val_loss, losses = train(args)
    if args.json:
        result = {"val_loss": finite(val_loss), "losses": [finite(loss) for loss in losses]}
        args.json.write_text(json.dumps(result, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
