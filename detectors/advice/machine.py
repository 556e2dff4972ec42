"""What goes wrong with the machine under the run, or with what outlives it."""

from __future__ import annotations

from lossguard.detectors.advice.record import Advice
from lossguard.detectors.base import Symptom

LOW_GPU_UTILIZATION = Advice(
    symptom=Symptom.LOW_GPU_UTILIZATION,
    title="The GPU idles",
    meaning="The GPU has nothing to do for a large part of the time.",
    looks="Utilisation well below 1 over long stretches, while steps go on at their usual pace.",
    causes=(
        "Data come too slowly: look for `data_starved`.",
        "A batch that is too small: launching a kernel takes longer than running it.",
        "Synchronisation in the loop: `.item()`, `.cpu()`, printing the loss every step.",
        "Many small kernels without fusion; an optimizer that loops over parameters.",
        "Waiting for another rank, for a validation, or for a checkpoint to be written.",
    ),
    fixes=(
        "A larger batch, as far as the memory goes, and the learning rate with it.",
        "Log every 10 to 50 steps; keep running sums on the device.",
        "`torch.compile(model)`; `AdamW(..., fused=True)`.",
        "bf16 autocast, and `torch.set_float32_matmul_precision('high')`.",
        "`torch.profiler` for 10 steps: look for gaps between the kernels.",
        "Save checkpoints asynchronously: `torch.distributed.checkpoint.async_save`.",
    ),
    guard="It is told; nothing is done.",
    misses=(
        "Utilisation says that some kernel ran, not that it ran well: 100 % of the time at a "
        "tenth of the speed is not seen.",
        "Devices that report no utilisation.",
    ),
    false_alarms=("A GPU that is shared, and models so small that no GPU is needed.",),
    sources=("PyTorch Performance Tuning Guide",),
    also_called=("gpu", "gpu_idle", "idle", "utilization", "utilisation"),
)

MEMORY_GROWTH = Advice(
    symptom=Symptom.MEMORY_GROWTH,
    title="Memory grows towards its end",
    meaning="Memory of the process or the device rises step after step and will run out.",
    looks="A straight line upward, or a staircase with a step for every epoch or evaluation. "
    "Healthy memory is flat after the first steps.",
    causes=(
        "A graph that is kept: `total += loss` in place of `total += loss.item()`, outputs "
        "collected in a list without `.detach()`.",
        "Evaluation without `torch.no_grad()`.",
        "Python objects in a Dataset that workers copy on every access (lists of strings).",
        "Fragmentation: inputs of ever new lengths, reserved far above allocated.",
        "A cache that never forgets; `retain_graph=True`; hooks added every step.",
    ),
    fixes=(
        "`.detach()` or `.item()` on all that outlives a step; `torch.no_grad()` in evaluation.",
        "`torch.cuda.memory._record_memory_history()`, then "
        "`torch.cuda.memory._dump_snapshot('memory.pickle')` after 100 steps: "
        "pytorch.org/memory_viz shows who holds what.",
        "Fragmentation: `PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True`, and pad lengths to "
        "multiples of 64.",
        "Dataset: numpy or Arrow arrays in place of lists; fewer workers.",
        "`optimizer.zero_grad(set_to_none=True)` (the default); gradient checkpointing where it "
        "is just too large.",
    ),
    guard="It is told, with the step at which it would run out; nothing is done.",
    misses=("Memory of other processes on the same device or host, workers included.",),
    false_alarms=(
        "Files mapped into memory, which fill it until they have been read once; caches with a "
        "limit of their own; lengths that grow by a curriculum.",
    ),
    sources=("PyTorch documentation, Understanding CUDA Memory Usage",),
    also_called=("oom", "memory", "memory_leak", "leak"),
)

NO_CHECKPOINT = Advice(
    symptom=Symptom.NO_CHECKPOINT,
    title="Nothing saved for long",
    meaning="Nothing has been saved for so long that a crash now would cost more than you can "
    "afford.",
    looks="The age of the last checkpoint is a saw; here it only rises.",
    causes=(
        "The script saves at the end, or once an epoch, and epochs are long.",
        "Saving fails quietly: a full disk, an exception that is swallowed, only some ranks.",
        "It saves on a better validation loss only, and that has not come for long.",
    ),
    fixes=(
        "Save every sqrt(2 * C * M) seconds, C the seconds that a save takes and M the mean "
        "time between failures: 20 s and a day give every half an hour.",
        "Save the state that a resume needs: model, optimizer, scheduler, scaler, step, random "
        "generators, position in the data.",
        "Write to a temporary file, then rename; load it once to be sure.",
        "Keep the last two and the best by validation loss.",
        "Large models: `torch.distributed.checkpoint.async_save` costs seconds in place of "
        "minutes.",
    ),
    guard="It is told; nothing is saved for you on disk. Rollbacks use snapshots in memory, "
    "which end with the process.",
    misses=(
        "Whether what was saved can be loaded.",
        "Files written without `torch.save` or `torch.distributed.checkpoint`.",
    ),
    false_alarms=("Experiments that nobody would miss: switch it off in the policy.",),
    sources=("Daly, A higher order estimate of the optimum checkpoint interval, 2006",),
    also_called=("checkpoint", "unsaved"),
)

ALL = (LOW_GPU_UTILIZATION, MEMORY_GROWTH, NO_CHECKPOINT)
