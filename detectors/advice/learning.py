"""The loss is where it should be, and still the run does not learn as it should."""

from __future__ import annotations

from lossguard.detectors.advice.record import Advice
from lossguard.detectors.base import Symptom

OSCILLATION = Advice(
    symptom=Symptom.OSCILLATION,
    title="The loss swings",
    meaning="The loss goes up and down in a rhythm, without progress.",
    looks="A saw or a sine on top of a level: the same height again and again, several steps up "
    "and several down.",
    causes=(
        "A learning rate beyond what the curvature allows: each step overshoots the minimum.",
        "Batches that are too small: the direction is mostly noise.",
        "Data in an order: sources or classes that alternate in blocks, no shuffling.",
        "Too much momentum (beta1 = 0.99), or a cyclic schedule.",
        "Two players that chase each other (a GAN, a policy and its critic).",
    ),
    fixes=(
        "Divide the learning rate by 2 to 5, or begin its decay now.",
        "Accumulate gradients over 4 to 8 micro-batches: "
        "`if (i + 1) % 8 == 0: optimizer.step()`, and divide the loss by 8.",
        "Shuffle: `DataLoader(..., shuffle=True)`; interleave sources instead of switching.",
        "beta1 0.9 instead of more; for SGD momentum 0.9 and a smaller learning rate.",
        "Average the weights: `torch.optim.swa_utils.AveragedModel(model, "
        "multi_avg_fn=get_ema_multi_avg_fn(0.999))`.",
    ),
    guard="It is told; nothing is done.",
    misses=(
        "A swing with a period of more than about 170 steps; one without a period, unless it has "
        "grown to as much as the loss has come down so far.",
        "A swing that is no larger than what was usual in this run before.",
    ),
    false_alarms=(
        "Data that come in an order from some step on: sources that take turns.",
        "A cyclic learning rate whose cycle is longer than the window that is looked at.",
    ),
    sources=(
        "McCandlish et al., An Empirical Model of Large-Batch Training, 2018",
        "Cohen et al., Gradient Descent at the Edge of Stability, ICLR 2021",
    ),
    also_called=("oscillating", "swing", "zigzag"),
)

PLATEAU = Advice(
    symptom=Symptom.PLATEAU,
    title="No progress",
    meaning="The loss has made no progress beyond its own noise for long.",
    looks="A flat band. Early in a run and near the loss of guessing (log of the number of "
    "classes), the model has not begun to learn; later on it has run out of something.",
    causes=(
        "The learning rate is too low: decayed to nothing, or a warm-up that never ended.",
        "The gradient does not reach the layers: look for `vanishing_gradient`, `dead_units`.",
        "Frozen parameters, or ones that the optimizer was never given.",
        "Labels that do not belong to the inputs, or inputs that say nothing about them.",
        "A saddle, or the end of what this model can learn from these data.",
        "Every update is skipped: look for `loss_scale`, and at the `skipped` metric.",
    ),
    fixes=(
        "Overfit one batch in 100 steps. If that fails, look for a mistake, not for settings: "
        "`requires_grad`, `zero_grad` in the wrong place, a detached tensor, labels.",
        "Compare the learning rate with what was meant; multiply it by 3 for 200 steps.",
        "`torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.3, patience=5)` where "
        "it is late in the run.",
        "A larger model, more or better data, less regularisation (dropout, weight decay).",
        "Stop: if validation is flat as well, more steps cost money only.",
    ),
    guard="It is told; nothing is done.",
    misses=(
        "Progress that is real and tiny: it is taken for progress as long as it is beyond the "
        "noise.",
    ),
    false_alarms=(
        "Losses that say nothing about progress: of a GAN, of a policy gradient.",
        "A run that has converged is flat as well: that is a line and no warning.",
        "The flat stretch before a phase change (grokking), and the end of a finished schedule.",
    ),
    sources=("Prechelt, Early Stopping - But When?, 1998",),
    also_called=("stagnation", "stuck", "flat", "stalled"),
)

SLOW_CONVERGENCE = Advice(
    symptom=Symptom.SLOW_CONVERGENCE,
    title="Learning slower than expected",
    meaning="The loss falls, but clearly slower than the curve that this run itself, or a "
    "reference run, led to expect.",
    looks="The curve bends off above its own power law: straight on paper with two logarithmic "
    "axes, then flatter.",
    causes=(
        "A learning rate that is too low, or decays too early.",
        "Clipping that binds on nearly every step: the real step size is not the one you set.",
        "Updates that are lost: skipped by the scaler, or by a bound that is too tight.",
        "A batch size above the critical one: more samples a step, no better direction.",
        "Part of the model does not learn (`dead_units`, `vanishing_gradient`, frozen).",
        "Data that repeat: the same samples in every epoch of a small set, or duplicates.",
    ),
    fixes=(
        "Try 2 and 3 times the learning rate for 1,000 steps each, from the same checkpoint.",
        "Look at `clipping` and at the metric `skipped`.",
        "Scale the learning rate with the batch: by k for SGD, by sqrt(k) for Adam, for k times "
        "the samples.",
        "Decay over the whole length of the run; a cosine that is cut short leaves much behind.",
        "Compare data order, tokeniser and initialisation with the run that was faster.",
    ),
    guard="It is told; nothing is done.",
    misses=(
        "A run that was slow from its first step, or whose learning rate was lowered too early, "
        "follows its own curve: only the loss of a better run shows it (`lossguard policies "
        "--reference LOG` makes it part of a policy).",
    ),
    false_alarms=(
        "Curves that are no power law: fine-tuning that is done after a few hundred steps, "
        "a switch of data.",
    ),
    sources=("Hoffmann et al., Training Compute-Optimal Large Language Models, 2022",),
    also_called=("slow", "underfitting", "slow_learning"),
)

OVERFITTING = Advice(
    symptom=Symptom.OVERFITTING,
    title="Overfitting",
    meaning="The validation loss rises while the training loss goes on falling: the model learns "
    "the samples, not what they have in common.",
    looks="Scissors: two curves that fall together, then open. The best model lies where they "
    "part.",
    causes=(
        "Too few data for the size of the model, or too many epochs over them.",
        "No or too little regularisation.",
        "Validation data of another kind than the training data.",
        "A learning rate that stays high through many epochs of a small data set.",
    ),
    fixes=(
        "Stop, and take the checkpoint with the best validation loss.",
        "Fewer epochs: up to about 4 over the same data cost little; beyond that the gain fades.",
        "More or augmented data; remove duplicates between training and validation first.",
        "Dropout 0.1 to 0.3, weight decay 0.1 (AdamW), label smoothing 0.1, a smaller model.",
        "Fine-tuning: 1 to 3 epochs, a learning rate of 1e-5 to 5e-5, or LoRA in place of all "
        "weights.",
    ),
    guard="It is told, once, with the step of the best validation loss; nothing is done.",
    misses=(
        "A run that measures no validation loss. `guard.log(val_loss=...)` reports one.",
        "Memorised samples while the mean validation loss is still falling.",
    ),
    false_alarms=(
        "A validation set that is small or drawn anew each time: its noise looks like a rise.",
        "A validation loss that rises while accuracy does too: the model grows overconfident.",
    ),
    sources=(
        "Prechelt, Early Stopping - But When?, 1998",
        "Muennighoff et al., Scaling Data-Constrained Language Models, NeurIPS 2023",
    ),
    also_called=("overfit", "overtraining", "memorising", "generalisation_gap"),
)

EVAL_MODE_MISMATCH = Advice(
    symptom=Symptom.EVAL_MODE_MISMATCH,
    title="Train and eval mode mixed up",
    meaning="The model is validated in training mode or trained in evaluation mode, so that "
    "dropout and batch norm do the wrong thing.",
    looks="Nothing, mostly: the validation loss is noisy and somewhat too high, or it differs "
    "from the training loss from the very first evaluation on.",
    causes=(
        "`model.eval()` forgotten before validation.",
        "`model.train()` forgotten after it: dropout stays off for the rest of the run.",
        "A part of the model that is switched alone, or held outside of it (a frozen backbone).",
        "A helper, a callback or `generate()` that switches the mode and does not switch back.",
    ),
    fixes=(
        "`model.eval()` and `with torch.no_grad():` around validation, `model.train()` after it.",
        "In one place: a context manager that puts back the mode it found.",
        "A backbone that is meant to stay frozen: override its `train()` to keep batch norm in "
        "eval mode, and say so in a comment.",
        "Batch norm with batches below 16: use `GroupNorm` or `SyncBatchNorm` instead.",
    ),
    guard="It is told, once; nothing is done.",
    misses=(
        "Models without dropout and batch norm, for which the mode makes no difference.",
        "An evaluation that calls neither `eval()` nor `no_grad()`: it looks like training.",
    ),
    false_alarms=(
        "Dropout that is kept on deliberately (Monte Carlo dropout), and batch norm that is kept "
        "frozen while the rest trains.",
    ),
    sources=("PyTorch documentation, Module.eval and Module.train",),
    also_called=("eval_mode", "eval", "train_mode"),
)

ALL = (OSCILLATION, PLATEAU, SLOW_CONVERGENCE, OVERFITTING, EVAL_MODE_MISMATCH)
