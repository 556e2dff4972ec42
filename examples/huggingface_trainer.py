"""Hugging Face's Trainer with Lossguard's callback: a tiny GPT-2, character by character.

    pip install transformers accelerate
    python huggingface_trainer.py
    python huggingface_trainer.py --policy guard

Nothing is downloaded: the model begins with random weights, the text is data/kjv.txt. Takes a few
seconds. The same script without the callback can be watched with `lossguard run`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

from lossguard.integrations.huggingface import LossguardCallback

TEXT = (Path(__file__).parent / "data" / "kjv.txt").read_text()[:200_000]
CHARACTERS = sorted(set(TEXT))
LENGTH = 32


class Pieces(Dataset[dict[str, Tensor]]):
    """Pieces of the text between two places, one after the other."""

    def __init__(self, begin: int, end: int) -> None:
        number = {character: i for i, character in enumerate(CHARACTERS)}
        self.codes = torch.tensor([number[character] for character in TEXT[begin:end]])

    def __len__(self) -> int:
        return len(self.codes) // LENGTH

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        piece = self.codes[i * LENGTH : (i + 1) * LENGTH]
        return {"input_ids": piece, "labels": piece}


def make_trainer(folder: str, callbacks: list[Any], steps: int = 60) -> Trainer:
    """All that there is to it, but for ``trainer.train()``."""
    set_seed(7)
    config = GPT2Config(
        vocab_size=len(CHARACTERS), n_positions=LENGTH, n_embd=32, n_layer=2, n_head=2
    )
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        warmup_steps=5,
        eval_strategy="steps",
        eval_steps=20,
        logging_steps=10,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    return Trainer(
        model=GPT2LMHeadModel(config),
        args=arguments,
        train_dataset=Pieces(0, 180_000),
        eval_dataset=Pieces(180_000, 182_000),
        callbacks=callbacks,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", default="observe", help="observe, guard, or a TOML file")
    policy = parser.parse_args().policy
    with tempfile.TemporaryDirectory() as folder:
        make_trainer(folder, [LossguardCallback(policy)]).train()


if __name__ == "__main__":
    main()
