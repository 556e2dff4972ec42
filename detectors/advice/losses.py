"""The loss or its gradient leaves where it should be, upward."""

from __future__ import annotations

from lossguard.detectors.advice.record import Advice
from lossguard.detectors.base import Symptom

NONFINITE = Advice(
    symptom=Symptom.NONFINITE,
    title="NaN or Inf",
    meaning="The loss, a gradient or an activation is NaN or Inf; one update made with it turns "
    "every weight into NaN.",
    looks="The loss curve has a hole, or simply ends; some trainers write 0.0 in its place. With "
    "fp16 the loss scale often halves several times shortly before.",
    causes=(
        "fp16 overflow: what is beyond 65,504 becomes Inf, and Inf - Inf or 0 * Inf becomes NaN.",
        "exp or softmax of a large number, log or division by zero, sqrt at zero (its gradient is "
        "infinite): in attention scores, or in a loss written by hand.",
        "A norm or a cosine without eps, on a row that is all zero or constant.",
        "A bad batch: NaN in the input, a row of attention that is masked completely, a loss "
        "averaged over no token at all (`ignore_index` everywhere gives 0/0).",
        "The weights were hurt before: look for `grad_spike`, `activation_drift` or `divergence` "
        "in the steps before it.",
    ),
    fixes=(
        "Look at the module that is named: the first, in the order of the forward pass, whose "
        "output was not finite. With finite activations it is the parameter whose gradient was "
        "the first to break.",
        "A single step now and then: skip it, and filter what was in the batch (empty or fully "
        "masked samples, labels out of range).",
        "fp16: train in bf16 instead, which has the range of fp32: `torch.autocast('cuda', "
        "dtype=torch.bfloat16)`, without a GradScaler.",
        "Several steps in a row: the weights or the precision are at fault, not the data. Go "
        "back to a good state and change the precision: bf16, or fp32 for softmax, norms and loss.",
        "Give every norm, sqrt, log and division an eps that the precision can hold: 1e-5; in "
        "fp16 anything below 6e-8 is zero. Use `F.cross_entropy(logits, ...)`, never "
        "`log(softmax(...))`.",
        "`torch.autograd.set_detect_anomaly(True)` names the operation in backward, at about "
        "twice the time per step. Clipping does not help: a NaN norm spreads to all gradients.",
    ),
    guard="Each such update is skipped in its own step. `nonfinite_tolerance` of them in a row "
    "(5 by default) roll the run back.",
    misses=(
        "Activations are measured at blocks, embeddings and the head: which line within a block "
        "it was remains to be found.",
        "A NaN in a weight or a buffer that no forward pass uses.",
    ),
    false_alarms=(
        "A loss that is Inf by design, such as CTC on a target that cannot be aligned. (The "
        "overflows of a GradScaler are not reported: they are how it finds its scale.)",
    ),
    sources=("Micikevicius et al., Mixed Precision Training, ICLR 2018",),
    also_called=("nan", "inf", "overflow", "infinite"),
)

LOSS_SPIKE = Advice(
    symptom=Symptom.LOSS_SPIKE,
    title="The loss jumps",
    meaning="The loss is far above its recent trend for one or a few steps.",
    looks="A needle: up at once, and down again within a few steps. A bad one comes down slowly, "
    "or stays on a higher level.",
    causes=(
        "An extreme or poisoned batch: a corrupt shard, wrong labels, one token repeated.",
        "A large update a step earlier: look for `grad_spike` just before.",
        "Adam's second moment lags behind gradients that grew (beta2 = 0.999), most often in the "
        "embedding.",
        "A learning rate that is too high for this phase of the training.",
        "Attention or output logits that have grown for long: look for `activation_drift`.",
    ),
    fixes=(
        "Back within a few steps: do nothing, note the batch.",
        "Not back: go to a state from before it and leave the batches around it out. PaLM went "
        "back about 100 steps and skipped 200 to 500 batches; the same batches did not spike "
        "from another state.",
        "`AdamW(..., betas=(0.9, 0.95))` in place of 0.999.",
        "Clip at a norm of 1.0, or lower: OPT-175B went from 1.0 to 0.3.",
        "z-loss, `1e-4 * logits.logsumexp(-1).pow(2).mean()`, where logits grow; normalise "
        "queries and keys where attention does.",
        "Let the embedding learn slower: `x = 0.1 * x + 0.9 * x.detach()` on its output, as "
        "GLM-130B did.",
        "Take the peak learning rate down by a third.",
    ),
    guard="An update whose loss is over its bound is skipped in its own step. A spike that stays "
    "(critical) rolls the run back to before its onset; the learning rate is held for 100 steps. "
    "A jump of the validation loss is told and never acted on.",
    misses=(
        "A rise that takes hundreds of steps: that is `divergence`.",
        "A jump within the first few steps of a run, and one smaller than the noise.",
    ),
    false_alarms=(
        "Losses with heavy tails (policy gradients, batches of one) are noted often, as warnings.",
        "A new data set or task that lifts the loss at once, and for good.",
    ),
    sources=(
        "Chowdhery et al., PaLM, 2022, section 5.1",
        "Zhang et al., OPT, 2022, section 2.5",
        "Zeng et al., GLM-130B, ICLR 2023",
    ),
    also_called=("spike", "jump"),
)

GRAD_SPIKE = Advice(
    symptom=Symptom.GRAD_SPIKE,
    title="The gradient jumps",
    meaning="The gradient norm before clipping is far above what is usual in this run: the last "
    "moment at which the weights can still be saved.",
    looks="A needle in the gradient norm, one step before one in the loss. BLOOM's went 0.24, "
    "0.95, 2.4, 16, 145, 960, and the loss followed only at the end.",
    causes=(
        "An extreme or poisoned batch.",
        "Attention scores or logits that have grown large: a small change now flips the softmax.",
        "A batch that is smaller than the others: the last of an epoch, or what a mask left of it.",
        "An unstable place in the loss: division by a small number, a log near zero.",
    ),
    fixes=(
        "Single ones: skip the update, look at the batch.",
        "`torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)` before every step; `clipping` "
        "proposes a bound from this run's own gradients.",
        "`drop_last=True` in the DataLoader; divide by the number of tokens that count, not by "
        "the number of samples.",
        "Recurrent: find the layer whose gradient leads (`exploding_gradient`) and normalise "
        "before it; QK norm in attention.",
        "A bound that you know from earlier runs: `hard_bound` under `[detectors.grad_spike]`.",
    ),
    guard="The update is skipped in its own step, before it reaches the weights. It rolls nothing "
    "back: what gets through shows as `loss_spike` or `divergence`, which do.",
    misses=(
        "Where the loop clips before the first step that is watched, that step has no norm.",
        "A norm that has grown slowly is the new usual: see `exploding_gradient`.",
    ),
    false_alarms=(
        "Rare tasks or languages with naturally larger gradients. Vetoes that turn out harmless "
        "widen the bound by themselves, by a factor of 4 for every three.",
    ),
    sources=("BigScience, chronicles of the 176B training, 2022",),
    also_called=("gradient_spike", "gradient spike"),
)

DIVERGENCE = Advice(
    symptom=Symptom.DIVERGENCE,
    title="The run diverges",
    meaning="The loss rises and does not come back: it stays far above where it was, drifts up "
    "for hundreds of steps, or rises from the very start.",
    looks="A hockey stick, a step up to a plateau near the initial loss, or a slow bend upward "
    "where the curve should fall.",
    causes=(
        "A learning rate that is too high, or a schedule that jumped (`lr_jump`).",
        "No warm-up, or one that is too short for Adam.",
        "Weights hurt by earlier spikes, or an optimizer state that is (`optimizer_state`).",
        "Labels shifted by one, or another data set than before.",
        "Bad initialisation: residual branches that are not scaled down with the depth.",
        "fp16 with a loss scale that has collapsed (`loss_scale`).",
    ),
    fixes=(
        "Go back to before the onset and divide the learning rate by 3 to 10.",
        "Warm up linearly for at least 2 / (1 - beta2) steps: 2,000 for beta2 = 0.999, and the "
        "same again after a restart.",
        "Rising from the first step: overfit one batch. If that does not work either, the labels "
        "or the loss are wrong, not the learning rate.",
        "`AdamW(..., betas=(0.9, 0.95))`, clip at 1.0, weight decay 0.1: the settings of most "
        "large language models.",
        "Scale the output projections of residual branches by 1 / sqrt(2 * layers) (GPT-2), and "
        "normalise before, not after, each block.",
        "Skip the data of that stretch; if the data did change, warm up again on the new mix.",
    ),
    guard="The run is rolled back to before the onset and its learning rate held for 100 steps. "
    "Trouble that is back within `relapse_steps` is left to a person.",
    misses=(
        "A rise of a few per cent is a warning only: new data bring that too.",
        "A run whose loss never fell, and does not rise: that is `plateau`.",
    ),
    false_alarms=(
        "A rise that is legitimate and lasts (a new task, an unfrozen layer, a warm restart that "
        "goes back near the start) is critical once. Use `observe` where you expect one.",
    ),
    sources=(
        "Ma and Yarats, On the adequacy of untuned warmup, AAAI 2021",
        "Radford et al., GPT-2, 2019 (initialisation)",
    ),
    also_called=("diverge", "diverging", "blow_up", "explosion"),
)

ALL = (NONFINITE, LOSS_SPIKE, GRAD_SPIKE, DIVERGENCE)
