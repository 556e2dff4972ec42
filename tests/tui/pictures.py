"""Pictures for the dashboard's tests and screenshots: realistic, and the same every time."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from lossguard.agent import feed
from lossguard.tui.source import Answer, Glimpse, Question

NOW_S = 1_790_000_000.0
BUCKETS = 2000
STEPS = 12_000
SPIKE = 4_310
NAN = 6_480
DIVERGENCE = 9_090
ROLLBACK = (9_730, 9_000)

Floats = NDArray[np.float64]


class StillSource:
    """A source that shows what it was told to; remembers what it was asked for and told to do."""

    def __init__(
        self, glimpse: Glimpse | None = None, runs: dict[str, feed.Picture] | None = None
    ) -> None:
        self.glimpse = glimpse or Glimpse(picture())
        self.runs = runs or {}
        self.wanted = feed.Subscribe()
        self.watched: list[str] = []
        self.sent: list[Question] = []
        self.heard: list[Answer] = []
        self.started = False
        self.closed = False

    def start(self) -> None:
        """Remembered."""
        self.started = True

    def close(self) -> None:
        """Remembered."""
        self.closed = True

    def want(self, wants: feed.Subscribe) -> None:
        """Remembered; a run with a picture of its own is shown from now on."""
        if wants.run != self.wanted.run:
            self.watched.append(wants.run)
        self.wanted = wants
        if wants.run in self.runs:
            self.glimpse = Glimpse(self.runs[wants.run])

    def latest(self) -> Glimpse:
        """What it was told."""
        return self.glimpse

    def send(self, question: Question) -> None:
        """Remembered."""
        self.sent.append(question)

    def answers(self) -> list[Answer]:
        """What the test has put there, once."""
        heard, self.heard = self.heard, []
        return heard

    @property
    def orders(self) -> list[feed.SendCommand]:
        """The orders among what was sent."""
        return [one for one in self.sent if isinstance(one, feed.SendCommand)]


def series(metric: str, steps: Floats, values: Floats, buckets: int = BUCKETS) -> feed.Series:
    """Per-step values in at most ``buckets`` buckets, as an agent sends them."""
    edges = np.unique(np.linspace(0, len(values), buckets + 1).astype(int))
    low, high, last, bad = [], [], [], []
    for start, end in pairwise(edges):
        part = values[start:end]
        finite = part[np.isfinite(part)]
        low.append(finite.min() if len(finite) else np.nan)
        high.append(finite.max() if len(finite) else np.nan)
        last.append(finite[-1] if len(finite) else np.nan)
        bad.append(len(finite) < len(part))
    return feed.Series(
        metric=metric,
        steps=np.asarray(steps[edges[:-1]], "<i8").tobytes(),
        low=np.asarray(low, "<f4").tobytes(),
        high=np.asarray(high, "<f4").tobytes(),
        last=np.asarray(last, "<f4").tobytes(),
        nonfinite=np.asarray(bad, np.uint8).tobytes(),
    )


def run_summary(run: str = "r-8f3a", **changes: Any) -> feed.RunSummary:
    """A running run; ``changes`` are fields."""
    fields: dict[str, Any] = {
        "run": run,
        "name": "llama-350m-fineweb",
        "state": "running",
        "step": STEPS,
        "applied": STEPS - 732,
        "world_size": 8,
        "started": NOW_S - 5 * 3600,
        "metrics": ["loss", "val_loss", "grad_norm", "lr", "step_time", "loss_scale", "rss"],
        "last": {
            "loss": 2.4137,
            "val_loss": 2.489,
            "grad_norm": 0.4382,
            "lr": 2.4e-4,
            "loss_scale": 65536.0,
            "step_time": 0.1873,
        },
        "incidents": 4,
        "actions": 5,
        "dropped": 0,
        "policy": "guard",
        "open_incidents": 1,
        "worst": "warning",
        "steps_per_s": 5.34,
        "acts": True,
        "spark": little(run),
    }
    return feed.RunSummary(**(fields | changes))


def little(run: str) -> bytes:
    """A loss in little, another one for each run."""
    noise = np.random.default_rng(list(run.encode()))
    x = np.linspace(0, 1, feed.SPARK_CELLS)
    middle = 2.0 + 6.0 * np.exp(-x * noise.uniform(2, 9))
    spread = np.abs(noise.normal(0.1, 0.08, len(x)))
    return np.stack((middle - spread, middle + spread), 1).astype("<f4").tobytes()


def all_runs() -> list[feed.RunSummary]:
    """One run of every state."""
    quiet = {"open_incidents": 0, "worst": "", "incidents": 0}
    return [
        run_summary(),
        run_summary("r-77c1", name="vit-b16-imagenet", step=112_904, steps_per_s=11.8, **quiet),
        run_summary(
            "r-51d0",
            name="whisper-ft-de",
            state="silent",
            step=8_213,
            steps_per_s=0.0,
            open_incidents=2,
            worst="critical",
        ),
        run_summary("r-4410", name="resnet50-baseline", state="finished", step=450_360, **quiet),
        run_summary(
            "r-39aa",
            name="gpt2-lr-sweep-3e-3",
            state="stopped",
            step=6_120,
            incidents=3,
            open_incidents=0,
        ),
        run_summary("r-2b07", name="unet-ddpm", state="failed", step=71_002, **quiet),
        run_summary(
            "r-1f00",
            name="moe-8x1b",
            state="died",
            step=1_204,
            incidents=1,
            open_incidents=1,
            worst="critical",
        ),
    ]


def loss_curve() -> tuple[Floats, Floats]:
    """Steps and losses: a power law with noise, a spike, a NaN, a divergence that is undone."""
    noise = np.random.default_rng(7)
    steps = np.arange(STEPS, dtype=np.float64)
    loss = 2.1 + 8.6 * (1 + steps / 40) ** -0.52 + noise.normal(0, 0.055, STEPS)
    loss[SPIKE : SPIKE + 3] = (9.7, 7.1, 4.4)
    loss[NAN] = np.nan
    away = steps[DIVERGENCE : ROLLBACK[0]] - DIVERGENCE
    loss[DIVERGENCE : ROLLBACK[0]] += 3.1 * (away / len(away)) ** 1.7
    return steps, loss


def grad_curve() -> tuple[Floats, Floats]:
    """Steps and gradient norms that go with the losses."""
    noise = np.random.default_rng(11)
    steps = np.arange(STEPS, dtype=np.float64)
    norm = (0.42 + 2.2 * np.exp(-steps / 300)) * np.exp(noise.normal(0, 0.16, STEPS))
    norm[SPIKE : SPIKE + 2] = (38.0, 6.0)
    norm[NAN] = np.inf
    away = steps[DIVERGENCE : ROLLBACK[0]] - DIVERGENCE
    norm[DIVERGENCE : ROLLBACK[0]] *= 1 + 5 * (away / len(away)) ** 2
    return steps, norm


def incidents() -> list[feed.IncidentLine]:
    """Four incidents: skipped, skipped, rolled back, open."""

    def one(number: int, age_s: float, **fields: Any) -> feed.IncidentLine:
        base: dict[str, Any] = {"id": f"inc-{number:04d}", "run": "r-8f3a", "opened": NOW_S - age_s}
        return feed.IncidentLine(**(base | fields))

    return [
        one(
            1,
            9100,
            state="resolved",
            symptom="grad_spike",
            severity="warning",
            metric="grad_norm",
            onset_step=SPIKE,
            detected_step=SPIKE,
            end_step=SPIKE + 3,
            score=88.2,
            message="gradient norm 38.0 is 88 times its running median 0.431",
            where="layers.11.attn.q_proj",
            evidence={"value": 38.0, "median": 0.431, "bound": 4.31},
            actions=[feed.ActionLine(action="skip", step=SPIKE, result="done: update dropped")],
        ),
        one(
            2,
            6300,
            state="resolved",
            symptom="nonfinite",
            severity="critical",
            metric="loss",
            onset_step=NAN,
            detected_step=NAN,
            end_step=NAN + 1,
            score=float("inf"),
            message="NaN first appeared in the softmax of layers.3.attn; 1 batch of 1,024 tokens",
            where="layers.3.attn.softmax",
            evidence={"value": float("nan"), "loss_scale": 65536.0},
            actions=[feed.ActionLine(action="skip", step=NAN, result="done: update dropped")],
        ),
        one(
            3,
            2400,
            state="resolved",
            symptom="divergence",
            severity="critical",
            metric="loss",
            onset_step=DIVERGENCE,
            detected_step=ROLLBACK[0] - 4,
            end_step=ROLLBACK[0] + 60,
            score=14.7,
            message="loss 5.4 has risen for 630 steps, 14.7 MADs above its trend",
            where="all ranks",
            also=["exploding_gradient", "clipping"],
            evidence={"value": 5.41, "trend": 2.51, "mad": 0.197},
            actions=[
                feed.ActionLine(action="rollback", step=ROLLBACK[0], result="done: back to 9,000"),
                feed.ActionLine(action="lower_lr", step=ROLLBACK[0], result="done: 3e-4 to 2.4e-4"),
            ],
        ),
        one(
            4,
            95,
            state="open",
            symptom="clipping",
            severity="warning",
            metric="grad_norm",
            onset_step=11_120,
            detected_step=11_610,
            end_step=None,
            score=0.61,
            message="61 % of the last 1,000 updates were clipped; max_norm 0.5 is their 39th "
            "percentile",
            where="optimizer",
            evidence={"rate": 0.61, "max_norm": 0.5, "p95": 0.71},
        ),
    ]


def events() -> list[feed.EventLine]:
    """A log in the order of time."""
    lines = [
        (0, "hello", "8 ranks, policy guard, torch 2.9, LambdaLR, GradScaler"),
        (SPIKE, "skip", "update dropped on all ranks, gradient norm 38.0 > limit 4.31"),
        (NAN, "skip", "update dropped on all ranks, loss is NaN"),
        (9_000, "snapshot", "step 9,000 proven good, 1.4 GiB in host memory"),
        (ROLLBACK[0], "rollback", "back to step 9,000 in 1.9 s, next batches differ"),
        (ROLLBACK[0], "lower_lr", "learning rate 3e-4 → 2.4e-4 with 200 steps of warm-up"),
        (11_000, "checkpoint", "checkpoints/step-11000 written, 2.8 GiB, sha256 checked"),
        (11_610, "incident", "clipping: 61 % of the last 1,000 updates were clipped"),
    ]
    return [
        feed.EventLine(step=step, kind=kind, message=message, time_s=NOW_S - 9000 + 10.0 * i)
        for i, (step, kind, message) in enumerate(lines)
    ]


def _build(curve: Callable[[], tuple[Floats, Floats]], metric: str) -> feed.Series:
    return series(metric, *curve())


def validation() -> feed.Series:
    """A validation loss every 1,000 steps."""
    steps = np.arange(1000, STEPS, 1000, dtype=np.float64)
    return series("val_loss", steps, 2.19 + 8.6 * (1 + steps / 40) ** -0.52)


def rate_curve() -> tuple[Floats, Floats]:
    """Warm-up, cosine, and the cut of the rollback."""
    steps = np.arange(STEPS, dtype=np.float64)
    rate = 3e-4 * np.minimum(steps / 600, 1) * (0.55 + 0.45 * np.cos(np.pi * steps / STEPS))
    rate[ROLLBACK[0] :] *= 0.8
    return steps, rate


def time_curve() -> tuple[Floats, Floats]:
    """Steady, with an evaluation every 1,000 steps."""
    noise = np.random.default_rng(3)
    steps = np.arange(STEPS, dtype=np.float64)
    taken = 0.187 * np.exp(noise.normal(0, 0.03, STEPS))
    taken[999::1000] += 0.4
    return steps, taken


def scale_curve() -> tuple[Floats, Floats]:
    """GradScaler: doubles every 2,000 steps, halves on an overflow."""
    steps = np.arange(STEPS, dtype=np.float64)
    return steps, np.where(steps < NAN, 2.0 ** (14 + steps // 2000), 2.0**15)


_SERIES: list[feed.Series] = []


def all_series() -> list[feed.Series]:
    """What the screen of a run shows; built once."""
    if not _SERIES:
        _SERIES.extend([_build(loss_curve, "loss"), _build(grad_curve, "grad_norm"), validation()])
        _SERIES.extend([_build(rate_curve, "lr"), _build(time_curve, "step_time")])
        _SERIES.append(_build(scale_curve, "loss_scale"))
    return list(_SERIES)


def bounds() -> list[feed.Series]:
    """Limits that follow the run."""
    steps = np.arange(64, STEPS, 64, dtype=np.float64)
    norm = np.maximum(10 * (0.42 + 2.2 * np.exp(-steps / 300)), 4.31)
    return [series("grad_norm", steps, norm)]


def strip(family: str = "grad_norm", blocks: int = 8, columns: int = 120) -> feed.LayerStrip:
    """A transformer of so many blocks: one gradient explodes, another is not finite."""
    parts = ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.out", "mlp.up", "mlp.down", "norm")
    names = ["embed", *(f"layers.{i}.{part}" for i in range(blocks) for part in parts), "head"]
    noise = np.random.default_rng(5)
    steps = np.linspace(0, STEPS, columns).astype("<i8")
    depth = np.linspace(0, 1, len(names))
    values = np.exp(noise.normal(0, 0.25, (columns, len(names)))) * (0.02 + 0.2 * depth**2)
    values *= (1 + 8 * np.exp(-np.arange(columns) / 6))[:, None]
    bad = names.index("layers.3.attn.q_proj")
    values[90:96, bad : bad + 4] *= 60
    values[64, bad] = np.inf
    values[:8, -1] = np.nan
    return feed.LayerStrip(
        family=family, names=names, steps=steps.tobytes(), values=values.astype("<f4").tobytes()
    )


def rank_strip(family: str = "rank_step_time", ranks: int = 8) -> feed.LayerStrip:
    """One rank is slow for a while."""
    noise = np.random.default_rng(6)
    steps = np.linspace(0, STEPS, 120).astype("<i8")
    values = 0.187 * np.exp(noise.normal(0, 0.02, (120, ranks)))
    values[70:100, 5] *= 1.8
    return feed.LayerStrip(
        family=family,
        names=[str(rank) for rank in range(ranks)],
        steps=steps.tobytes(),
        values=values.astype("<f4").tobytes(),
    )


def ranks(number: int = 8) -> list[feed.RankLine]:
    """So many processes on two hosts; one of them is late."""
    return [
        feed.RankLine(
            rank=rank,
            host=f"node-{rank // 4}",
            pid=41_000 + rank,
            step=STEPS - (3 if rank == 5 else 0),
            heard_s=0.4,
            phase="collective" if rank != 5 else "data",
            at="train.py:118 in step, loader.py:74 in __next__",
            values={
                "step_time": 0.187 + 0.001 * rank,
                "data_wait": 0.004 if rank != 5 else 0.151,
                "gpu_utilization": 0.97 if rank != 5 else 0.31,
                "gpu_temperature": 61.0 + rank,
                "memory_allocated": 61.2e9,
            },
        )
        for rank in range(number)
    ]


def snapshots() -> list[feed.SnapshotLine]:
    """Newest first: not proven, good, good, on disk."""
    known: list[tuple[int, float, str, str]] = [
        (11_960, 8, "memory", "unproven"),
        (11_820, 34, "memory", "good"),
        (11_200, 150, "memory", "good"),
        (10_000, 374, "disk", "good"),
    ]
    return [
        feed.SnapshotLine(
            step=step,
            age_s=age_s,
            bytes=1_503_238_553,
            place="disk" if place == "disk" else "memory",
            health="good" if health == "good" else "unproven",
        )
        for step, age_s, place, health in known
    ]


def beside() -> feed.Beside:
    """Another run, a little worse."""
    steps, loss = loss_curve()
    worse = 0.25 + 2.1 + 8.6 * (1 + steps / 55) ** -0.5 + 0.0 * loss
    return feed.Beside(
        run="r-77c1", name="vit-b16-imagenet", series=[series("loss", steps, worse, 500)]
    )


def story(incident: str = "inc-0004") -> feed.IncidentStory:
    """What is known beyond the line."""
    return feed.IncidentStory(
        incident=incident,
        title="Gradients are clipped nearly always",
        meaning="Most updates hit the clipping bound, so that it sets the step size.",
        causes=["the bound is lower than usual gradients", "the learning rate is too high"],
        fixes=["set max_norm near the 95th percentile of the norm", "lower the learning rate"],
        folder="/home/ada/.lossguard/incidents/inc-0004",
        texts={"stacks.txt": "rank 0, pid 41000\n  train.py:118 in step\n  [b]not markup[/b]"},
    )


def picture(**changes: Any) -> feed.Picture:
    """The full picture; ``changes`` are fields."""
    fields: dict[str, Any] = {
        "runs": all_runs(),
        "run": "r-8f3a",
        "series": all_series(),
        "incidents": incidents(),
        "events": events(),
        "limits": {"loss": 3.1, "grad_norm": 4.31},
        "rollbacks": [ROLLBACK],
        "agent_pid": 4242,
        "time_s": NOW_S,
        "bounds": bounds(),
        "snapshots": snapshots(),
        "strips": [strip(), rank_strip()],
        "families": ["grad_norm", "act_rms", "update_ratio"],
        "ranks": ranks(),
    }
    return feed.Picture(**(fields | changes))


EMPTY = feed.Picture(runs=[], agent_pid=4242, time_s=NOW_S)
"""An agent without a single run."""


def changed(incident: feed.IncidentLine, **changes: Any) -> feed.IncidentLine:
    """The incident with other values in some fields."""
    return msgspec.structs.replace(incident, **changes)
