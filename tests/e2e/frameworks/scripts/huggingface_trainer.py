"""Hugging Face's Trainer and a tiny GPT-2 that learns to count."""

from __future__ import annotations

import hashlib
import json
import sys

import torch
from torch.utils.data import Dataset
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)


class Counting(Dataset[dict[str, torch.Tensor]]):
    """Counting upwards, modulo 61."""

    def __init__(self, size: int, start: int) -> None:
        self.size, self.start = size, start

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        ids = (torch.arange(16) + 3 * (i + self.start)) % 61
        return {"input_ids": ids, "labels": ids}


def main() -> None:
    set_seed(7)
    config = GPT2Config(vocab_size=61, n_positions=16, n_embd=16, n_layer=2, n_head=2)
    model = GPT2LMHeadModel(config)
    arguments = TrainingArguments(
        output_dir=sys.argv[1],
        max_steps=12,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_grad_norm=1.0,
        learning_rate=1e-2,
        warmup_steps=3,
        eval_strategy="steps",
        eval_steps=4,
        logging_steps=1,
        save_steps=6,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=model, args=arguments, train_dataset=Counting(64, 0), eval_dataset=Counting(16, 100)
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    for line in trainer.state.log_history:
        if "eval_loss" in line:
            print(json.dumps({"val_loss": line["eval_loss"]}))
        elif "loss" in line:
            print(json.dumps({"loss": line["loss"], "grad_norm": line["grad_norm"]}))
    weights = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
    print(json.dumps({"weights": hashlib.sha256(weights).hexdigest()}))


if __name__ == "__main__":
    main()
