"""Draw docs/symptoms/<symptom>.png: a real small training that shows it, and its healthy twin.

    python docs/make_pictures.py [SYMPTOM ...]      # needs torch and matplotlib; some minutes

The trainings are those of tests/scenarios. Run docs/make_symptoms.py afterwards.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
from rich.progress import track

mpl.use("Agg")
sys.path.insert(0, str(Path(__file__).parent.parent))

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from lossguard.detectors import Finding, Symptom
from tests.scenarios.catalogue import SCENARIOS
from tests.scenarios.harness import Record, watch

FOLDER = Path(__file__).parent / "symptoms"
SEED = 1
SICK, HEALTHY, INK = "#D55E00", "#999999", "#222222"

SHOWN: dict[Symptom, tuple[str, str]] = {
    Symptom.NONFINITE: ("fp16_overflow", "act_rms/"),
    Symptom.LOSS_SPIKE: ("swapped_shard", "loss"),
    Symptom.GRAD_SPIKE: ("giant_sample", "grad_norm"),
    Symptom.DIVERGENCE: ("rate_raised", "loss"),
    Symptom.OSCILLATION: ("edge_of_stability", "loss"),
    Symptom.PLATEAU: ("dead_network", "loss"),
    Symptom.SLOW_CONVERGENCE: ("rate_dropped_early", "loss"),
    Symptom.OVERFITTING: ("tiny_data_set", "val_loss"),
    Symptom.EVAL_MODE_MISMATCH: ("forgotten_eval", "val_loss"),
    Symptom.VANISHING_GRADIENT: ("deep_sigmoids", "grad_norm/"),
    Symptom.EXPLODING_GRADIENT: ("huge_weights", "grad_norm/"),
    Symptom.DEAD_UNITS: ("dead_relus", "zero_share/"),
    Symptom.ACTIVATION_DRIFT: ("residual_growth", "act_rms/"),
    Symptom.WEIGHT_GROWTH: ("hot_embedding", "weight_norm/"),
    Symptom.OPTIMIZER_STATE: ("poisoned_moments", "update_ratio/"),
    Symptom.LOSS_SCALE: ("collapsing_scale", "loss_scale"),
    Symptom.CLIPPING: ("clipped_always", "grad_norm"),
    Symptom.LR_JUMP: ("rate_jumps", "lr"),
    Symptom.OUTPUT_COLLAPSE: ("padding_as_end", "top_token_share"),
    Symptom.BAD_BATCH: ("repeated_character", "input_top_share"),
    Symptom.DATA_STARVED: ("slow_disk", "data_wait"),
    Symptom.LOW_GPU_UTILIZATION: ("idle_gpu", "gpu_utilization"),
    Symptom.MEMORY_GROWTH: ("kept_graphs", "rss"),
    Symptom.NO_CHECKPOINT: ("never_saved", "checkpoint_age"),
}
"""The scenario of each symptom, and the metric, or family (with a slash), that tells most."""
_LOGARITHMIC = frozenset(
    ("loss", "grad_norm", "grad_norm/", "loss_scale", "lr", "act_rms/", "update_ratio/")
)
_MOST_LAYERS = 12


def main() -> None:
    """Draw those that were named, or all."""
    FOLDER.mkdir(exist_ok=True)
    wanted = [Symptom(name) for name in sys.argv[1:]] or list(SHOWN)
    for symptom in track(wanted, "trainings"):
        name, metric = SHOWN[symptom]
        scenario = SCENARIOS[name]
        sick, healthy = (
            watch(partial(scenario.train, SEED, healthy=is_healthy)) for is_healthy in (False, True)
        )
        draw(symptom, scenario.cause, metric, sick, healthy)


def draw(symptom: Symptom, cause: str, metric: str, sick: Record, healthy: Record) -> None:
    """One picture."""
    families = metric.endswith("/")
    figure, panels = plt.subplots(
        1, 2 if families else 1, figsize=(7.2, 2.5), squeeze=False, sharey=True
    )
    panel = panels[0][0]
    if families:
        _layers(panel, sick, metric[:-1])
        _layers(panels[0][1], healthy, metric[:-1])
        panels[0][1].set_title("healthy twin", fontsize=8, color=INK, loc="left")
    else:
        panel.plot(*_points(healthy, metric), color=HEALTHY, lw=1, label="healthy twin")
        panel.plot(*_points(sick, metric), color=SICK, lw=1, label="this run")
        panel.legend(fontsize=7, frameon=False)
    said = next((f for f in sick.findings if f.symptom is symptom), None)
    if said is not None:
        _mark(panel, said)
    if metric in _LOGARITHMIC and panel.dataLim.ymin > 0.0:
        panel.set_yscale("log")
    panel.set_ylabel(metric.rstrip("/"), fontsize=8)
    panel.set_title(cause, fontsize=8, color=INK, loc="left")
    for axes in panels[0]:
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("step", fontsize=8)
    figure.tight_layout()
    figure.savefig(FOLDER / f"{symptom}.png", dpi=80)
    plt.close(figure)


def _mark(panel: Axes, said: Finding) -> None:
    panel.axvline(said.onset_step, color=INK, lw=0.8, ls=":")
    panel.axvline(said.detected_step, color=INK, lw=0.8)
    panel.annotate(
        f"{said.severity} at {said.detected_step}",
        (said.detected_step, 0.02), xycoords=("data", "axes fraction"),
        xytext=(3, 0), textcoords="offset points", fontsize=7, color=INK,
    )  # fmt: skip


def _points(record: Record, metric: str) -> tuple[list[int], list[float]]:
    kept = [(o.step, o.values[metric]) for o in record.observations if metric in o.values]
    return [step for step, _ in kept], [value for _, value in kept]


def _layers(panel: Axes, record: Record, family: str) -> None:
    kept = [(o.step, o.families[family]) for o in record.observations if family in o.families]
    kept = [(step, f) for step, f in kept if not f.missing.all()]
    if not kept:
        return
    steps = [step for step, _ in kept]
    values = np.stack([np.where(f.missing, np.nan, f.values) for _, f in kept])
    names = kept[0][1].names
    weights = [i for i, name in enumerate(names) if not name.endswith("bias")]
    shown = [weights[int(i)] for i in np.linspace(0, len(weights) - 1, _MOST_LAYERS)]
    for place, index in enumerate(sorted(set(shown))):
        colour = plt.get_cmap("viridis")(place / _MOST_LAYERS)
        panel.plot(steps, values[:, index], color=colour, lw=0.9)
    panel.annotate(
        "dark: input side, light: output side", (1.0, 1.0), xycoords="axes fraction",
        ha="right", va="bottom", fontsize=6, color=HEALTHY,
    )  # fmt: skip


if __name__ == "__main__":
    main()
