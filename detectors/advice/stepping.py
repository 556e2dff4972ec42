"""What goes wrong between the gradient and the weights: optimizer, scaler, clipping, schedule."""

from __future__ import annotations

from lossguard.detectors.advice.record import Advice
from lossguard.detectors.base import Symptom

OPTIMIZER_STATE = Advice(
    symptom=Symptom.OPTIMIZER_STATE,
    title="The optimizer's state is poisoned",
    meaning="A giant gradient got into Adam's second moment, and updates stay tiny until it has "
    "decayed.",
    looks="A needle in the gradient norm, then a ratio of update to weight that collapses and "
    "creeps back over 1 / (1 - beta2) steps: a thousand for 0.999. The loss hardly moves.",
    causes=(
        "One batch with a giant gradient, and no clipping.",
        "Gradients that were stepped with while still scaled (`scaler.unscale_` forgotten, or a "
        "loss scale that changed).",
        "A rollback or a resume that brought back the weights and not the optimizer, or the "
        "moments of another run.",
        "eps that is large beside the gradients: 1e-8 and gradients below that.",
    ),
    fixes=(
        "Go back to before it, with weights and optimizer together.",
        "Or forget the moments and warm up again: `optimizer.state.clear()`, then 100 to 500 "
        "steps of warm-up.",
        "Clip at 1.0 from now on, after `scaler.unscale_(optimizer)`.",
        "beta2 = 0.95: poison decays in 20 steps in place of 1,000.",
        "Save and load `optimizer.state_dict()` with the model; eps = 1e-15 for very small "
        "gradients.",
    ),
    guard="The gradient that would do it is skipped as `grad_spike` before it reaches the "
    "moments. Once it is in, it is told; nothing is done.",
    misses=(
        "Optimizers without a second moment (SGD, Lion).",
        "Poison in a few elements of a large parameter.",
    ),
    false_alarms=("A learning rate that was lowered on purpose by orders of magnitude, at once.",),
    sources=(
        "Wortsman et al., Stable and low-precision training for large-scale vision-language "
        "models, NeurIPS 2023",
        "Molybog et al., A Theory on Adam Instability in Large-Scale Machine Learning, 2023",
    ),
    also_called=("adam", "second_moment", "moments", "optimizer"),
)

LOSS_SCALE = Advice(
    symptom=Symptom.LOSS_SCALE,
    title="Loss scaling is in trouble",
    meaning="The scale of the GradScaler collapses, climbs beyond use, or makes too many updates "
    "be skipped.",
    looks="The scale is a staircase: healthy is a slow rise with single steps down. A collapse "
    "is step after step down; GLM-130B saw it some 30 steps before the loss exploded.",
    causes=(
        "Gradients or activations that overflow fp16 again and again: the scale has no place "
        "left. The run is about to diverge.",
        "NaN from somewhere else: every backward is non-finite, whatever the scale.",
        "`scaler.update()` not called after a skipped step, or called twice.",
        "Beyond 2^20: gradients have become so small that hardly anything overflows, and "
        "underflow hides the rest.",
        "Clipping without `scaler.unscale_(optimizer)` before it.",
    ),
    fixes=(
        "Change to bf16, which needs no scaler: `torch.autocast('cuda', dtype=torch.bfloat16)`.",
        "Where it must be fp16: `torch.amp.GradScaler(init_scale=2**13, growth_interval=1000)`; "
        "softmax, norms and loss in fp32.",
        "Collapse: go back 100 steps and skip the batches in between, before it is a divergence.",
        "`scaler.unscale_(optimizer)`, then clip, then `scaler.step(optimizer)`, then "
        "`scaler.update()`, each once a step.",
        "Climbing: look at the gradient norm; cap it with a `growth_interval` of 10,000.",
    ),
    guard="It is told; nothing is done. The scaler itself skips what overflows.",
    misses=("Scalers of other libraries (DeepSpeed, Apex), which the probes do not see.",),
    false_alarms=(
        "A model that lives well with a scale above 2^20: it is a line, and a warning only from "
        "2^24 on. The first search for a scale is left out.",
    ),
    sources=(
        "Micikevicius et al., Mixed Precision Training, ICLR 2018",
        "Zeng et al., GLM-130B, training log, 2022",
    ),
    also_called=("scale", "gradscaler", "grad_scaler", "fp16", "amp"),
)

CLIPPING = Advice(
    symptom=Symptom.CLIPPING,
    title="Clipping all the time, or never",
    meaning="Gradient clipping binds on most steps, so that the bound is the real learning rate, "
    "or on none, so that it protects from nothing.",
    looks="The norm before clipping lies above the bound nearly throughout, or far below it.",
    causes=(
        "A bound taken over from another model, loss or batch size.",
        "A loss that is a sum, not a mean: gradients grow with the batch.",
        "Gradients that were clipped while still scaled (fp16).",
        "A norm that has fallen since the bound was chosen: it usually does during training.",
    ),
    fixes=(
        "Look at the 99th percentile of this run's norms, which is told: below 5 no clipping is "
        "needed, up to 20 a bound of 1 to 2 fits, above 20 take 1 and look for the cause.",
        "Aim at 1 to 10 % of the steps: outliers are cut, the rest is left alone.",
        "`scaler.unscale_(optimizer)` before `clip_grad_norm_`.",
        "A mean over tokens in place of a sum.",
        "If you keep a bound that always binds, know that you train with normalised gradients; "
        "then tune the learning rate for that.",
    ),
    guard="It is told, with a bound that would fit; nothing is done.",
    misses=(
        "Clipping that is written by hand: the bound is not known.",
        "`clip_grad_value_`, which bounds elements and not the norm.",
    ),
    false_alarms=(
        "Recipes that clip always on purpose; Adam does not see the size of its gradients. It is "
        "a line and no warning, unless `warn_above` is set.",
    ),
    sources=("Pascanu et al., On the difficulty of training recurrent networks, ICML 2013",),
    also_called=("clip", "max_norm", "clip_rate"),
)

LR_JUMP = Advice(
    symptom=Symptom.LR_JUMP,
    title="The learning rate jumps",
    meaning="The learning rate changes at once, by far more than its schedule did until then.",
    looks="A cliff in a curve that is smooth elsewhere; the loss follows within a few steps.",
    causes=(
        "`scheduler.step()` called twice a step, once a micro-batch, or once an epoch in place "
        "of once a step.",
        "A resume that forgot the scheduler: the warm-up begins anew, or is left out.",
        "A typing error: 1e-2 for 1e-3, or a factor applied twice.",
        "A schedule whose length does not fit: a cosine that has ended goes up again.",
        "A callback or a sweep that changes `param_groups` in a running training.",
    ),
    fixes=(
        "Save and load `scheduler.state_dict()`; call `scheduler.step()` after "
        "`optimizer.step()`, once.",
        "Print `optimizer.param_groups[0]['lr']` for 100 steps before the real run.",
        "Steps of the schedule are optimizer steps: samples / (batch * accumulation * ranks).",
        "Go back to before the jump: at 10 times the rate a few steps are enough to ruin a model.",
        "If it was meant: warm up over 100 steps or more in place of a jump.",
    ),
    guard="It is told. If the loss rises after it, the rollback holds the learning rate for 100 "
    "steps.",
    misses=(
        "Groups other than the first one of the optimizer.",
        "A schedule that is smooth, and wrong.",
        "A rate that is too high from the first step on, or goes back to its highest so far.",
    ),
    false_alarms=(
        "A new stage of the script that is meant to begin with a higher rate than all before. "
        "The end of a constant warm-up, by up to 10 times, is only noted.",
    ),
    also_called=("lr", "learning_rate", "scheduler", "schedule"),
)

ALL = (OPTIMIZER_STATE, LOSS_SCALE, CLIPPING, LR_JUMP)
