"""The example script trains, repeats itself, and meets its accidents where it should."""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import train_gpt
from torch import nn
from trouble import LR_STEPS, Trouble

EXAMPLES = Path(__file__).parents[2] / "examples"
STEPS = 60


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def small(**changes: Any) -> argparse.Namespace:
    """The script's own defaults, on batches that train in milliseconds."""
    small_run = {"steps": STEPS, "batch_size": 2, "block_size": 16, "eval_every": 1000}
    args = train_gpt.parse_args([])
    return argparse.Namespace(**{**vars(args), **small_run, **changes})


def watch(monkeypatch: pytest.MonkeyPatch, args: argparse.Namespace) -> dict[str, list[float]]:
    """Train, and record what the optimizer is given: ``norm`` and ``lr`` of every step."""
    seen: dict[str, list[float]] = {"norm": [], "lr": []}
    clip, step = nn.utils.clip_grad_norm_, torch.optim.AdamW.step

    def clip_and_note(*given: Any, **named: Any) -> torch.Tensor:
        norm = clip(*given, **named)
        seen["norm"].append(norm.item())
        return norm

    def step_and_note(self: torch.optim.AdamW, *given: Any, **named: Any) -> Any:
        seen["lr"].append(self.param_groups[0]["lr"])
        return step(self, *given, **named)

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", clip_and_note)
    monkeypatch.setattr(torch.optim.AdamW, "step", step_and_note)
    _, seen["loss"] = train_gpt.train(args)
    return seen


def test_the_same_seed_gives_the_same_losses() -> None:
    """Bitwise: what differs between the demo's runs is the trouble and the guard alone."""
    assert train_gpt.train(small(steps=8)) == train_gpt.train(small(steps=8))


def test_another_seed_gives_other_losses() -> None:
    assert train_gpt.train(small(steps=4)) != train_gpt.train(small(steps=4, seed=2))


def test_it_learns() -> None:
    """From the loss of a uniform guess to that of one that knows the letters' frequencies."""
    val_loss, losses = train_gpt.train(small(batch_size=8))
    assert losses[0] == pytest.approx(math.log(61), abs=0.3)
    assert val_loss < 2.9


def test_it_is_a_model_of_a_million_parameters() -> None:
    model = train_gpt.GPT(vocabulary=61, block_size=64)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(1e6, rel=0.05)


def test_the_schedule_warms_up_and_decays_to_a_tenth() -> None:
    factors = [train_gpt.schedule(step, 100) for step in range(100)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[5:] == sorted(factors[5:], reverse=True)
    assert factors[-1] == pytest.approx(0.1, abs=0.01)


def test_it_knows_nothing_of_lossguard() -> None:
    """It stands for any script of a user's."""
    for script in ("train_gpt.py", "trouble.py"):
        lines = (EXAMPLES / script).read_text().splitlines()
        assert not [line for line in lines if "import" in line and "lossguard" in line]


def test_the_corpus_is_plain_text_without_verse_numbers() -> None:
    text = (EXAMPLES / "data" / "kjv.txt").read_text(encoding="ascii")
    assert 500_000 < len(text) < 1_000_000
    assert text.startswith("In the beginning God created the heaven and the earth.\n")
    assert not any(character.isdigit() for character in text)


def test_each_accident_comes_once_and_where_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the first one, the run is its clean twin bit for bit."""
    seen = watch(monkeypatch, small(trouble=True))
    _, clean = train_gpt.train(small())
    poisoned, wrong_lr, nan = round(0.35 * STEPS), round(0.55 * STEPS), round(0.80 * STEPS)

    assert seen["loss"][:poisoned] == clean[:poisoned]
    usual = sorted(seen["norm"][:poisoned])[poisoned // 2]
    assert seen["norm"][poisoned] > 100 * usual
    assert [step for step, lr in enumerate(seen["lr"]) if lr > 5e-3] == list(
        range(wrong_lr, wrong_lr + LR_STEPS)
    )
    assert [math.isnan(loss) for loss in seen["loss"]] == [step >= nan for step in range(STEPS)]


def test_the_nan_does_not_come_while_validating() -> None:
    """Evaluation in the same iteration sees the model as it is."""
    model = train_gpt.GPT(vocabulary=61, block_size=8)
    trouble = Trouble(model, 10, enabled=True)
    trouble.begin(8)
    tokens = torch.zeros(1, 8, dtype=torch.long)
    assert model(tokens).isnan().any()
    assert not model.eval()(tokens).isnan().any()


@pytest.mark.e2e
def test_the_script_writes_strict_json(tmp_path: Path) -> None:
    """A NaN is null there: any reader of JSON can read it."""
    result = tmp_path / "result.json"
    options = ["--steps", "10", "--batch-size", "2", "--trouble", "--json", str(result)]
    command = [sys.executable, str(EXAMPLES / "train_gpt.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "step 10/10  final val_loss nan" in done.stdout

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    written = json.loads(result.read_text(), parse_constant=refuse)
    assert written["val_loss"] is None
    assert len(written["losses"]) == 10
    assert written["losses"][0] > 0
    assert written["losses"][9] is None
