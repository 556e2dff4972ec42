"""What goes wrong with the data: what is in them, and how fast they come."""

from __future__ import annotations

from lossguard.detectors.advice.record import Advice
from lossguard.detectors.base import Symptom

OUTPUT_COLLAPSE = Advice(
    symptom=Symptom.OUTPUT_COLLAPSE,
    title="The output collapses",
    meaning="The model predicts one and the same class or token nearly everywhere, whatever "
    "the input.",
    looks="The entropy of the predictions falls to almost 0 and the share of one token rises to "
    "almost 1, often while the loss looks fine.",
    causes=(
        "Padding or EOS that counts in the loss: predicting it is the cheapest way down.",
        "Classes that are very unequal: always the largest is right 95 % of the time.",
        "A learning rate that was too high for a few steps: the head's bias says it all.",
        "Labels that are all the same by a mistake in the data.",
        "RL or self-training without an entropy term: it rewards its own certainty.",
    ),
    fixes=(
        "Leave padding out: `labels[mask == 0] = -100` with `F.cross_entropy(..., "
        "ignore_index=-100)`; one EOS a document, and a pad token of its own.",
        "Look at 10 decoded batches, targets included.",
        "Weights for classes, or balanced sampling: `WeightedRandomSampler`.",
        "Go back to before it, divide the learning rate by 3 to 10.",
        "An entropy bonus of 0.001 to 0.01 (RL), label smoothing 0.1.",
    ),
    guard="It is told; nothing is done.",
    misses=(
        "Models whose output has no classes in its last dimension.",
        "Text that repeats in generation only: in training every next token is given.",
        "It is measured every 16th step, on at most 256 positions; the first 64 samples do not "
        "count, for a fresh language model predicts the commonest token only.",
    ),
    false_alarms=(
        "Data that really are nearly all of one class, where the targets are not seen: then only "
        "the entropy is known.",
    ),
    sources=(
        "Zhai et al., Stabilizing Transformer Training by Preventing Attention Entropy Collapse, "
        "ICML 2023",
    ),
    also_called=("collapse", "mode_collapse", "degeneration", "entropy"),
)

BAD_BATCH = Advice(
    symptom=Symptom.BAD_BATCH,
    title="A batch out of its usual range",
    meaning="The input of a step is unlike those before: far longer, far larger, or one value "
    "repeated.",
    looks="One point that stands out in a statistic of the input; a spike of gradient or loss "
    "in the same step.",
    causes=(
        "Corrupt or truncated files; a shard of another format.",
        "Text that is one token over and over, binary data in a text corpus, empty documents.",
        "A normalisation that was left out for part of the data: 0 to 255 in place of 0 to 1.",
        "A sensor or a label with a wrong unit; NaN replaced by -999.",
    ),
    fixes=(
        "Look at the batch: the step is named; with a seeded sampler it can be drawn again.",
        "Filter before training: length, share of the most frequent token (above 0.5), distinct "
        "tokens (below 0.05), largest absolute value.",
        "Clamp or standardise inputs: `x.clamp(-10, 10)` after normalisation.",
        "Remove duplicates: repeated documents are the usual source of one-token batches.",
        "Bucket by length, or cut at a maximum.",
    ),
    guard="It is told. What such a batch does to gradient or loss is skipped as `grad_spike` or "
    "`loss_spike`.",
    misses=(
        "Labels that are wrong on inputs that look normal.",
        "Only the first input of the model is looked at, every 16th step, at 256 values.",
    ),
    false_alarms=(
        "A curriculum by length, several data sets that take turns, the last batch of an epoch: "
        "each is a line, until it has become usual.",
    ),
    sources=("Lee et al., Deduplicating Training Data Makes Language Models Better, ACL 2022",),
    also_called=("batch", "bad_data", "outlier_batch", "poisoned_batch"),
)

DATA_STARVED = Advice(
    symptom=Symptom.DATA_STARVED,
    title="Waiting for data",
    meaning="A large share of each step's time goes to waiting for the DataLoader.",
    looks="Step times with a comb in them: every n-th step is slow, n being the number of "
    "workers, or all of them are.",
    causes=(
        "`num_workers=0`: data are prepared while the device waits.",
        "Decoding, augmentation or tokenisation in Python, sample by sample.",
        "A slow or remote file system, many small files.",
        "Workers that start anew every epoch, or too many for the cores there are.",
        "Copies to the device that block: no pinned memory.",
    ),
    fixes=(
        "`DataLoader(..., num_workers=4, pin_memory=True, persistent_workers=True, "
        "prefetch_factor=4)`: one worker for every 1 to 2 free cores, then measure.",
        "`batch.to(device, non_blocking=True)`.",
        "Prepare once, not every epoch: tokenised and packed into a memory-mapped file.",
        "Large shards in place of small files (WebDataset, Parquet, MosaicML Streaming); copy "
        "them to the local disk first.",
        "`torch.set_num_threads(1)` in workers; augment on the device.",
    ),
    guard="It is told; nothing is done.",
    misses=("Batches that do not come from a `torch.utils.data.DataLoader`.",),
    false_alarms=(
        "The start of an epoch, while workers start; steps so short that any wait is a large "
        "share.",
    ),
    sources=("PyTorch Performance Tuning Guide",),
    also_called=("data_loader", "dataloader", "starved", "data_wait", "input_bound"),
)

ALL = (OUTPUT_COLLAPSE, BAD_BATCH, DATA_STARVED)
