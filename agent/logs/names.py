"""What people call the columns of their logs, and which metric each name means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

STEP, EPOCH, TIME = "step", "epoch", "time"

# Metric -> its names as `plain_name` writes them, the best first. A unit at the end of a name
# ("(ms)", "_gb") is taken off before, a word in front ("train/", "metrics/") after looking here.
_ALIASES: dict[str, str] = {
    STEP: "step global_step trainer_global_step train_global_step iteration iter num_updates "
    "train_num_updates valid_num_updates update_step optimizer_step training_step n_iter "
    "train_iter _step steps updates update batch_idx it",
    EPOCH: "epoch epochs ep",
    TIME: "wall_time walltime timestamp _timestamp unix_time _runtime relative_time elapsed",
    "loss": "loss train_loss training_loss train_loss_step loss_step loss_train lm_loss "
    "loss_training train_lm_loss reduced_train_loss train_ce_loss step_loss batch_loss "
    "train_batch_loss total_loss train_total_loss loss_total loss_train_total nll_loss ce_loss "
    "cross_entropy_loss cross_entropy train_cross_entropy_loss train_cross_entropy "
    "loss_metrics_global_avg_loss global_avg_loss mean_loss avg_loss average_loss running_loss "
    "smoothed_loss losses_total objective trainloss tr_loss train_loss_epoch train_epoch_loss "
    "loss_epoch epoch_loss",
    "val_loss": "val_loss eval_loss valid_loss validation_loss dev_loss loss_val loss_valid "
    "loss_validation loss_eval lm_loss_validation lm_loss_value val_loss_epoch val_epoch_loss "
    "validation_epoch_loss val_total_loss loss_eval_total metrics_eval_loss val_lm_loss "
    "valid_nll_loss val_ce_loss eval_ce_loss val_nll_loss val_avg_loss valloss "
    "validation_metrics_loss test_loss loss_test val_loss_step",
    "grad_norm": "grad_norm gradient_norm gnorm grad_norm_total total_grad_norm global_grad_norm "
    "grad_norm_global grad_2_0_norm_total grad_norm_before_clip total_norm gradnorm grad_l2_norm "
    "grad_norm_l2 l2_norm_grad_global gradients_norm norm_grad global_norm",
    "max_norm": "max_norm max_grad_norm clip_norm grad_clip clip_grad_norm gradient_clip_val",
    "lr": "lr learning_rate learningrate last_lr current_lr cur_lr lr_0 lr_group_0 lr_group0 "
    "lr_pg0 lr_pg1 learning_rate_0 learning_rate_group0 learning_rate_group_0 "
    "epoch_learning_rate",
    "loss_scale": "loss_scale loss_scaler grad_scale scaler_scale amp_scale scaler "
    "gradscaler_scale loss_scale_value fp16_loss_scale scale",
    "skipped": "skipped",
    "step_time": "step_time time_per_step iter_time iteration_time batch_time seconds_per_step "
    "sec_per_step elapsed_time_per_iteration time_per_iteration time_per_iter "
    "time_metrics_end_to_end step_duration dt",
    "eval_in_training": "eval_in_training",
    "train_in_eval": "train_in_eval",
    "output_entropy": "output_entropy normalized_entropy",
    "top_token_share": "top_token_share",
    "target_top_share": "target_top_share",
    "logit_z": "logit_z logit_logsumexp",
    "input_top_share": "input_top_share",
    "input_distinct_share": "input_distinct_share",
    "input_length": "input_length input_len sequence_length seq_length seq_len",
    "input_absmax": "input_absmax",
    "data_wait": "data_wait data_time data_wait_time data_loading_time data_load_time load_time "
    "dataloader_time time_metrics_data_loading",
    "rss": "rss process_rss memory_rss rss_memory proc_memory_rss",
    "memory_allocated": "memory_allocated gpu_memory_allocated cuda_memory_allocated "
    "allocated_memory mem_allocated gpu_mem_allocated max_memory_allocated memory_max_allocated "
    "memory_max_active gpu_memory gpu_mem gpu_memory_used gpu_memory_usage",
    "memory_reserved": "memory_reserved gpu_memory_reserved cuda_memory_reserved reserved_memory "
    "mem_reserved max_memory_reserved memory_max_reserved gpu_0_memoryallocatedbytes",
    "memory_total": "memory_total gpu_memory_total total_memory cuda_memory_total",
    "gpu_utilization": "gpu_utilization gpu_util gpu_utilisation gpu_usage utilization_gpu "
    "gpu_0_utilization gpu0_utilization gpu_0_gpu",
    "checkpoint_age": "checkpoint_age",
    # Measured live only: what wrote them was Lossguard, under their own names.
    **{name: name for name in (
        "allocator_retries", "backward_time", "checkpoint_time", "clip_coefficient", "eos_share",
        "eval_time", "forward_time", "gpu_power", "gpu_temperature", "input_batch",
        "input_fingerprint", "input_mean", "loss_scale_growth", "memory_fragmented",
        "optimizer_time", "rank_lag", "weight_checksum",
    )},
}  # fmt: skip

ORDER = {metric: place for place, metric in enumerate(_ALIASES)}
"""Where a metric stands when several are listed."""
PLAIN_METRICS = tuple(metric for metric in _ALIASES if metric not in (STEP, TIME))
"""The metrics of docs/metrics.md that are one number a step."""

FAMILIES: dict[str, tuple[str, ...]] = {
    "grad_norm": (
        "grad_norm", "grad_norms", "gradient_norm", "gradient_norms", "gnorm", "grad_2.0_norm",
        "l2_norm/grad",
    ),
    "act_rms": ("act_rms", "activation_rms"),
    "act_absmax": ("act_absmax",),
    "zero_share": ("zero_share",),
    "saturated_share": ("saturated_share",),
    "weight_norm": ("weight_norm", "weight_norms", "param_norm", "param_norms", "l2_norm/param"),
    "update_ratio": ("update_ratio", "update_ratios", "l2_norm/update_ratio"),
    "adam_ratio": ("adam_ratio",),
    "rank_step_time": ("rank_step_time",),
    "rank_own_time": ("rank_own_time",),
    "rank_data_time": ("rank_data_time",),
    "rank_checksum": ("rank_checksum",),
}  # fmt: skip
"""Per-layer metrics, ``<family>/<layer>``, and what the family is called."""

# Too common as words to mean anything in running text.
_NOT_IN_TEXT = frozenset((
    "scale", "it", "steps", "updates", "update", "epochs", "objective", "scaler", "elapsed",
    "timestamp", "dt", "ep", "rss",
))  # fmt: skip
_IN_FRONT = re.compile(r"^(?:train|training|metrics|system|optim|trainer|perf|stats|losses)_")
_NAMED_LR = re.compile(r"^lr_[a-z]+(?:_(?:pg1|0|1))?$")
_NAMED_EVALUATION = re.compile(r"^(?:eval|val|valid|validation)_\w+_loss$")
_SEPARATORS = re.compile(r"[\s/.:|\-]+")
_UNIT = re.compile(r"^(.+?)[\s_]*(?:[(\[]\s*([a-z%]+)\s*[)\]]|(?<=_)([a-z]+))$")

_SECONDS = {"ms": 1e-3, "s": 1.0, "sec": 1.0, "secs": 1.0, "seconds": 1.0}
_BYTES = {
    "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30, "bytes": 1.0,
}  # fmt: skip
_SHARE = {"percent": 0.01, "pct": 0.01, "%": 0.01}
_UNITS: dict[str, dict[str, float]] = {
    "step_time": _SECONDS, "data_wait": _SECONDS, TIME: _SECONDS, "checkpoint_age": _SECONDS,
    "rss": _BYTES, "memory_allocated": _BYTES, "memory_reserved": _BYTES, "memory_total": _BYTES,
    "gpu_utilization": _SHARE,
}  # fmt: skip
_LAST_RANK = 1000


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a column holds."""

    metric: str
    """A plain metric, ``<family>/<layer>``, or ``step``, ``epoch``, ``time``."""
    rank: int
    """Of two columns with one metric the one with the lower rank is the better."""
    scale: float = 1.0
    """From the column's unit to the metric's."""


_RANKED: dict[str, Meaning] = {
    alias: Meaning(metric, rank)
    for metric, aliases in _ALIASES.items()
    for rank, alias in enumerate(aliases.split())
}
# Weights & Biases' own names of what it samples from the system.
_RANKED["proc_memory_rssmb"] = Meaning("rss", _LAST_RANK, 2.0**20)
_RANKED["gpu_0_gpu"] = Meaning("gpu_utilization", _LAST_RANK, 0.01)


def plain_name(column: str) -> str:
    """Lower case, every separator an underscore.

    >>> plain_name("Train/LM loss"), plain_name("trainer/global_step")
    ('train_lm_loss', 'trainer_global_step')
    """
    return _SEPARATORS.sub("_", column.strip().lower()).rstrip("_")


def meaning_of(column: str) -> Meaning | None:
    """What a column of this name holds by the usual names; None where it is not known.

    >>> meaning_of("Loss/train").metric, meaning_of("step time (ms)").scale, meaning_of("mood")
    ('loss', 0.001, None)
    """
    if len(column) > 1000:
        return None
    name = plain_name(column)
    if (plain := _plain(name)) is not None:
        return plain
    if (layer := _layer(column)) is not None:
        return layer
    if (unit := _UNIT.match(name)) is not None:
        base, word = _plain(unit[1].rstrip("_")), unit[2] or unit[3]
        if base is not None and (scale := _UNITS.get(base.metric, {}).get(word)) is not None:
            return Meaning(base.metric, base.rank, scale)
    return None


def _plain(name: str) -> Meaning | None:
    known = _RANKED.get(name)
    if known is not None:
        return known
    if (front := _IN_FRONT.match(name)) is not None:
        known = _RANKED.get(name[front.end() :])
        if known is not None and known.metric != TIME:
            return Meaning(known.metric, known.rank + _LAST_RANK, known.scale)
    if _NAMED_LR.match(name):
        return Meaning("lr", _LAST_RANK)
    if _NAMED_EVALUATION.match(name):
        return Meaning("val_loss", _LAST_RANK)
    return None


def _layer(column: str) -> Meaning | None:
    lowered = column.strip().lower()
    offset = len(column) - len(column.lstrip())
    for front in ("", "train/", "metrics/", "optim/"):
        if not lowered.startswith(front):
            continue
        for family, aliases in FAMILIES.items():
            for alias in aliases:
                begin = len(front) + len(alias)
                if lowered.startswith(f"{alias}/", len(front)) and len(lowered) > begin + 1:
                    layer = column[offset + begin + 1 :].strip()
                    return Meaning(f"{family}/{layer}", 0)
    return None


def meaning_of_words(words: str) -> Meaning | None:
    """As ``meaning_of`` for words of running text, where the commonest ones mean nothing."""
    return None if plain_name(words) in _NOT_IN_TEXT else meaning_of(words)


class Recogniser:
    """Tells what a column of one log holds: as the user said, and else by the usual names."""

    def __init__(self, said: Mapping[str, str] | None = None) -> None:
        self.said = dict(said or {})
        """metric -> column, as the user has it; no other column is taken for these metrics."""
        self._of = {column.strip(): metric for metric, column in self.said.items()}
        self._known: dict[str, Meaning | None] = {}

    def meaning(self, column: str) -> Meaning | None:
        """What the column holds, or None."""
        try:
            return self._known[column]
        except KeyError:
            found = self._look_up(column)
            if len(self._known) < 100_000:
                self._known[column] = found
            return found

    def _look_up(self, column: str) -> Meaning | None:
        if (metric := self._of.get(column.strip())) is not None:
            return Meaning(metric, -1)
        found = meaning_of(column)
        return None if found is not None and found.metric in self.said else found


def is_metric(name: str) -> bool:
    """Whether a column can be declared to hold this."""
    family, _, layer = name.partition("/")
    return name in _ALIASES or (family in FAMILIES and bool(layer))
