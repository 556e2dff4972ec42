"""What goes wrong within the layers: gradients, activations, weights."""

from __future__ import annotations

from lossguard.detectors.advice.record import Advice
from lossguard.detectors.base import Symptom

VANISHING_GRADIENT = Advice(
    symptom=Symptom.VANISHING_GRADIENT,
    title="Gradients fade along the depth",
    meaning="The gradient becomes smaller from layer to layer on its way back, so that the "
    "first layers hardly learn.",
    looks="Gradient norms by layer, on a logarithmic axis, are a slope that falls towards the "
    "input by orders of magnitude. The loss is flat or falls slowly.",
    causes=(
        "A deep stack without residual connections.",
        "Sigmoid or tanh in the hidden layers: each multiplies the gradient by 0.25 or less.",
        "Weights that were initialised too small for the width.",
        "Units that died or saturated in between (`dead_units`).",
        "A long recurrence (RNN) over hundreds of steps.",
    ),
    fixes=(
        "Residual connections, `x = x + block(norm(x))`: the gradient has a way around.",
        "ReLU, GELU or SiLU in place of sigmoid and tanh.",
        "`torch.nn.init.kaiming_normal_(w, nonlinearity='relu')`, or `xavier_uniform_` for tanh.",
        "A norm before each block (Pre-LN); batch norm in convolutional nets.",
        "LSTM or GRU in place of a plain RNN; truncate the recurrence.",
    ),
    guard="It is told, with the layers; nothing is done.",
    misses=(
        "Nets of a few layers, and gradients that are lost in one layer only.",
        "Adam hides much of it: it makes small gradients into full-sized steps of noise.",
    ),
    false_alarms=(
        "Layers that are frozen, and adapters that begin at zero (LoRA's second matrix).",
    ),
    sources=(
        "Glorot and Bengio, Understanding the difficulty of training deep networks, 2010",
        "He et al., Deep Residual Learning, CVPR 2016",
    ),
    also_called=("vanishing", "vanishing_gradients"),
)

EXPLODING_GRADIENT = Advice(
    symptom=Symptom.EXPLODING_GRADIENT,
    title="Gradients grow along the depth",
    meaning="The gradient becomes larger from layer to layer on its way back, or the whole of "
    "it grows for many steps.",
    looks="Gradient norms by layer rise towards the input by orders of magnitude; the total "
    "norm climbs, with needles in it.",
    causes=(
        "Weights that were initialised too large for the width, or residual branches that are "
        "not scaled with the depth.",
        "Post-LN: the norm sits on the residual path.",
        "A long recurrence whose matrix has a norm above 1.",
        "A learning rate that is too high: the weights have already grown (`weight_growth`).",
        "An unnormalised input or target (prices, pixel values to 255).",
    ),
    fixes=(
        "`torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)`.",
        "Pre-LN in place of Post-LN; if it has to be Post-LN, a warm-up of several thousand steps.",
        "Scale the output projections of residual branches by 1 / sqrt(2 * layers).",
        "Normalise inputs and targets to mean 0 and variance 1.",
        "Divide the learning rate by 3; orthogonal initialisation for recurrent matrices.",
    ),
    guard="It is told, with the layers. Single jumps of the norm are `grad_spike`, and skipped.",
    misses=("Growth that clipping hides is seen only where the norm before clipping is known.",),
    false_alarms=(
        "The first steps after initialisation, and an embedding whose gradient is naturally the "
        "largest.",
    ),
    sources=(
        "Pascanu et al., On the difficulty of training recurrent networks, ICML 2013",
        "Xiong et al., On Layer Normalization in the Transformer Architecture, ICML 2020",
    ),
    also_called=("exploding", "exploding_gradients"),
)

DEAD_UNITS = Advice(
    symptom=Symptom.DEAD_UNITS,
    title="Dead or saturated units",
    meaning="Most outputs of an activation function are zero, or at the end of its range, and "
    "pass no gradient on.",
    looks="The share of zeros of a layer jumps towards 1 and stays; the loss stops falling, "
    "with no spike that explains it.",
    causes=(
        "A step that was too large pushed the biases far below zero: those units never fire again.",
        "A learning rate that is too high, no warm-up.",
        "Inputs that are not normalised, or negative throughout before a ReLU.",
        "Sigmoid or tanh after weights that are too large.",
        "A strong weight decay or L1 penalty on the biases.",
    ),
    fixes=(
        "GELU, SiLU or `LeakyReLU(0.01)` in place of ReLU.",
        "Divide the learning rate by 3 to 10 and warm up; go back to before they died: dead "
        "units do not come back by themselves.",
        "A norm before the activation; normalise the inputs.",
        "`kaiming_normal_` and biases of zero (or 0.01) at the start.",
        "No weight decay on biases and norms.",
    ),
    guard="It is told, with the layer; nothing is done.",
    misses=(
        "Activations written as a function (`F.relu`), not as a module: they are not seen.",
        "GELU and SiLU have no exact zeros: units that are dead in practice are not counted.",
        "It is measured every 16th step, over a whole layer: a few dead units do not show.",
    ),
    false_alarms=(
        "Layers that are sparse on purpose (ReLU^2, top-k, mixtures of experts), and padding.",
    ),
    sources=(
        "Lu et al., Dying ReLU and Initialization, 2019",
        "Glorot and Bengio, Understanding the difficulty of training deep networks, 2010",
    ),
    also_called=("dying_relu", "dead_relu", "dead", "saturation", "saturated"),
)

ACTIVATION_DRIFT = Advice(
    symptom=Symptom.ACTIVATION_DRIFT,
    title="Activations or logits drift",
    meaning="The size of a layer's outputs or of the logits grows without end, until the "
    "precision or the softmax gives way.",
    looks="A steady climb over thousands of steps under a loss that looks healthy; the spike or "
    "the NaN comes later.",
    causes=(
        "Nothing holds the logits: softmax does not care about a shift or, late in training, "
        "about scale.",
        "Attention scores that grow with the norms of queries and keys, most of all at a high "
        "learning rate.",
        "No or too little weight decay.",
        "A residual stream that every block adds to, without a norm at its end.",
        "Few outlier dimensions that grow alone.",
    ),
    fixes=(
        "z-loss on the logits: `loss + 1e-4 * logits.logsumexp(-1).pow(2).mean()`.",
        "QK norm: a LayerNorm or RMSNorm on queries and keys before their product.",
        "Weight decay 0.1 on matrices, by AdamW (decoupled).",
        "Cap the logits: `30 * torch.tanh(logits / 30)`.",
        "A final norm before the head; fp32 for logits and softmax.",
    ),
    guard="It is told, with the module; nothing is done.",
    misses=(
        "Growth inside a block: only the outputs of blocks, embeddings and the head are measured.",
        "A single channel that grows: the RMS of a layer hardly moves.",
    ),
    false_alarms=(
        "Growth that was wanted after the start of a run: layers that are unfrozen late, another "
        "task. The first 512 steps are left out.",
    ),
    sources=(
        "Chowdhery et al., PaLM, 2022 (z-loss)",
        "Wortsman et al., Small-scale proxies for large-scale Transformer training "
        "instabilities, ICLR 2024",
        "Dehghani et al., Scaling Vision Transformers to 22 Billion Parameters, ICML 2023",
    ),
    also_called=("logit_drift", "logit_growth", "z_loss"),
)

WEIGHT_GROWTH = Advice(
    symptom=Symptom.WEIGHT_GROWTH,
    title="Weights leave their band",
    meaning="The norm of an embedding or a weight grows without end, or each update changes "
    "the weights by too much or by nearly nothing.",
    looks="The norm climbs in a straight line or faster; the ratio of update to weight leaves "
    "the band around 1e-3 in which training goes well.",
    causes=(
        "A learning rate that is too high (ratio above 1e-2) or too low (below 1e-5).",
        "No weight decay, or parameters that were left out of it by mistake.",
        "Embeddings: rare tokens with large sparse updates; Adam with beta2 = 0.999.",
        "Scale invariance: weights before a norm grow, and their own learning rate decays "
        "unnoticed.",
    ),
    fixes=(
        "Bring the ratio of update to weight near 1e-3 with the learning rate of that group.",
        "`AdamW(..., weight_decay=0.1)` on matrices; also on the embedding where it is the one "
        "that grows.",
        "Let the embedding learn slower, `x = 0.1 * x + 0.9 * x.detach()`, or normalise after it.",
        "Initialise embeddings with a standard deviation of 0.02, and tie them to the head.",
        "beta2 = 0.95.",
    ),
    guard="It is told, with the parameter; nothing is done.",
    misses=(
        "It is measured every 16th step.",
        "One row of an embedding that grows: the norm of the whole hardly moves.",
    ),
    false_alarms=(
        "Weights right before a norm, which takes their size out again: they may grow without "
        "harm. Biases, and what is small beside the rest, are left out.",
    ),
    sources=(
        "Zeng et al., GLM-130B, ICLR 2023 (embedding gradients)",
        "You et al., Large Batch Optimization for Deep Learning (LAMB), ICLR 2020 (ratios)",
    ),
    also_called=("embedding_norm", "weight_norm", "update_ratio"),
)

ALL = (VANISHING_GRADIENT, EXPLODING_GRADIENT, DEAD_UNITS, ACTIVATION_DRIFT, WEIGHT_GROWTH)
