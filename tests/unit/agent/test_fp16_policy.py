"""The example policy for FP16: a smaller loss scale first, then the advice to use BF16."""

from __future__ import annotations

from pathlib import Path

import pytest

from lossguard.agent.ladder import Rung
from lossguard.agent.policy_file import load_policy, parse_policy
from lossguard.agent.policy_settings import detectors_for
from lossguard.agent.policy_text import as_toml
from lossguard.agent.run import Run
from lossguard.detectors import Observation
from lossguard.errors import ConfigError
from lossguard.probes.wire import SKIP_SCALER

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "fp16_policy.toml"


class Fp16:
    """A run with a GradScaler, seen by the real detectors under the example policy."""

    def __init__(self) -> None:
        policy = load_policy(EXAMPLE)
        self.run = Run("run-a", policy, detectors_for(policy), lambda: 0.0)
        self.step = 0
        self.ordered: list[tuple[str, dict[str, object]]] = []

    def train(self, steps: int, dropped_every: int = 0) -> None:
        for _ in range(steps):
            self.step += 1
            drops = dropped_every and self.step % dropped_every == 0
            values = {
                "loss": 2.0 + 0.01 * (self.step % 7),
                "loss_scale": 65536.0,
                "skipped": float(SKIP_SCALER if drops else 0),
            }
            for order in self.run.observe(Observation(self.step, values)).orders:
                self.ordered.append((order.action, dict(order.args)))
                self.run.answered(order.action, order.incident, True, self.step, {})

    @property
    def advice(self) -> list[str]:
        return [event.message for event in self.run.events if event.kind == "advice"]


def test_trouble_that_is_back_after_a_smaller_scale_ends_in_the_advice_to_use_bf16() -> None:
    fp16 = Fp16()
    fp16.train(200)
    fp16.train(100, dropped_every=4)
    assert fp16.ordered == [("set_loss_scale", {"scale": 1024.0})]
    assert not fp16.advice
    fp16.train(200)
    fp16.train(100, dropped_every=4)
    assert len(fp16.ordered) == 1
    (words,) = fp16.advice
    assert "bfloat16" in words
    fp16.train(200)
    fp16.train(100, dropped_every=4)
    assert (len(fp16.ordered), len(fp16.advice)) == (1, 1)
    assert [a.action for i in fp16.run.incidents.all for a in i.actions] == [
        "set_loss_scale",
        "advise",
    ]


def test_the_few_overflows_of_a_healthy_scaler_order_nothing() -> None:
    fp16 = Fp16()
    fp16.train(2000, dropped_every=500)
    assert not fp16.ordered
    assert not fp16.advice


def test_advice_reads_back_as_it_was_written() -> None:
    policy = load_policy(EXAMPLE)
    assert parse_policy(as_toml(policy), "again").rules == policy.rules
    assert policy.rules[0].ladder[1] == Rung("advise", policy.rules[0].ladder[1].args)


@pytest.mark.parametrize("rung", ['{do = "advise"}', '{do = "advise", say = 3}'])
def test_advice_without_words_is_refused(rung: str) -> None:
    text = f'base = "guard"\n[[rules]]\nsymptom = "loss_scale"\nladder = [{rung}]\n'
    with pytest.raises(ConfigError, match=r"my.toml:4: rules.ladder: advise takes say"):
        parse_policy(text, "my.toml")
