"""What a person can do to a run from here: the keys, the words, and why not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from lossguard.agent import feed

Action: TypeAlias = Literal[
    "skip", "rollback", "lower_lr", "checkpoint", "set_clip", "stop", "ack", "mute"
]
Args: TypeAlias = "dict[str, float | int | str]"


@dataclass(frozen=True)
class Deed:
    """One thing to do. ``noted``: the agent does it, and no training has to obey."""

    action: Action
    key: str
    name: str
    does: str
    noted: bool = False


DEEDS = (
    Deed("skip", "S", "Skip the next update", "drops one update; weights stay as they are"),
    Deed("rollback", "R", "Roll back", "to a snapshot that you choose"),
    Deed("lower_lr", "W", "Lower the learning rate", "of every group and of the schedules"),
    Deed("checkpoint", "C", "Checkpoint", "writes a snapshot of this very state to disk"),
    Deed("set_clip", "P", "Set the clipping", "of the gradient norm, from the next step on"),
    Deed("stop", "X", "Stop the run", "ends the training in an orderly way"),
    Deed("ack", "a", "Acknowledge", "an incident: seen, nobody is told of it again", noted=True),
    Deed("mute", "m", "Mute", "a symptom in this run: listed, and calls nobody", noted=True),
)
BY_ACTION = {deed.action: deed for deed in DEEDS}

LOOKS_ON = "you look on here: only an operator may act (lossguard top in a terminal of your own)"


def why_not(
    deed: Deed,
    run: feed.RunSummary | None,
    snapshots: list[feed.SnapshotLine],
    *,
    operator: bool,
    gone: bool,
) -> str:
    """Why it cannot be done just now; empty where it can, as far as is known here.

    What the loop alone knows (a closure, a gradient that is cut over ranks) it says in its answer.
    """
    if not operator:
        return LOOKS_ON
    if gone:
        return "no agent answers: there is nobody to pass it on"
    if run is None:
        return "there is no run"
    if deed.noted:
        return ""
    if run.state not in ("running", "silent"):
        return f"the run is over ({run.state}): there is nobody to obey"
    if run.world_size > 1 and not run.acts:
        return (
            f"the policy {run.policy} only observes: its ranks do not vote, and so cannot obey "
            "together; start the run with --guard"
        )
    if deed.action == "rollback" and not snapshots:
        if not run.acts:
            return (
                f"the policy {run.policy} only observes and takes no snapshots: a checkpoint (C) "
                "makes one that you can go back to later"
            )
        return "there is no snapshot so far to go back to"
    return ""


@dataclass(frozen=True)
class Question:
    """What is asked before something is done, and the answers to choose from."""

    title: str
    text: str
    choices: tuple[tuple[str, str, Args], ...]
    """(key, label, arguments of the order); esc is always no."""


_BOUNDARY = "It happens at the next step boundary, once, on all ranks."


def question(
    deed: Deed, run: feed.RunSummary, args: Args, snapshot: feed.SnapshotLine | None
) -> Question | None:
    """What to ask before it is done; None for what harms nothing."""
    name = run.name
    if deed.action == "skip":
        text = (
            "The next update is computed and thrown away: weights, optimizer and step counts stay "
            f"as they are, the batch is not seen again. {_BOUNDARY}"
        )
        return Question(f"Skip the next update of {name}?", text, (("y", "Skip it", args),))
    if deed.action == "rollback" and snapshot is not None:
        return _rollback_question(run, args, snapshot)
    if deed.action == "lower_lr":
        now = run.last.get("lr")
        factor = float(args["factor"])
        becomes = f" ({now:.4g} becomes {now * factor:.4g})" if now is not None else ""
        text = (
            f"The learning rate of every parameter group, and of the schedules, is multiplied by "
            f"{factor:g}{becomes}, for good. {_BOUNDARY}"
        )
        choices = (("y", f"Lower it to {100 * factor:g} %", args),)
        return Question(f"Lower the learning rate of {name}?", text, choices)
    if deed.action == "set_clip":
        norm = run.last.get("grad_norm")
        beside = f" The last one was {norm:.4g}." if norm is not None else ""
        text = (
            f"From the next step on gradients with a total norm above {float(args['max_norm']):g} "
            f"are scaled down to it, beside any clipping of the script's own.{beside} {_BOUNDARY}"
        )
        return Question(f"Clip the gradients of {name}?", text, (("y", "Clip them", args),))
    if deed.action == "stop":
        return _stop_question(run)
    return None


def _rollback_question(run: feed.RunSummary, args: Args, snapshot: feed.SnapshotLine) -> Question:
    undone = max(0, run.step - snapshot.step)
    doubt = {
        "good": "It has proven good.",
        "unproven": "It has NOT proven good yet: too few steps have followed.",
        "doubtful": "It was taken AFTER the onset of trouble that is still open.",
    }[snapshot.health]
    text = (
        f"Weights, optimizer, schedules and scaler go back to what they were after step "
        f"{snapshot.step:,}; about {undone:,} steps of training are undone. {doubt} Data flow on: "
        "the batches since then are not seen again. For 100 steps the learning rate is held at 1.5 "
        f"times what it was then. If that snapshot is gone by then, the next older one is taken. "
        f"{_BOUNDARY}"
    )
    choices = (
        ("y", "Roll back", args),
        ("w", "Roll back, with half the learning rate", {**args, "lr": 0.5, "warmup_steps": 100}),
    )
    return Question(f"Roll {run.name} back to step {snapshot.step:,}?", text, choices)


def _stop_question(run: feed.RunSummary) -> Question:
    text = (
        "The training ends: StopTraining is raised in its loop, which a script does not catch by "
        "accident. Whatever the script does at its end it does. It cannot be taken back."
    )
    reason: Args = {"reason": "stopped by hand in the dashboard"}
    choices = (
        ("y", "Checkpoint, then stop", {**reason, "checkpoint": 1}),
        ("w", "Stop without a checkpoint", reason),
    )
    return Question(f"Stop {run.name} at step {run.step:,}?", text, choices)


def rollback_args(snapshot: feed.SnapshotLine) -> Args:
    """A rollback goes to the newest snapshot of the step before the one before the onset."""
    return {"onset": snapshot.step + 2, "hold_lr": 1}
