"""What goes wrong between the ranks of a training."""

from __future__ import annotations

from lossguard.detectors.advice.record import Advice
from lossguard.detectors.base import Symptom

STRAGGLER = Advice(
    symptom=Symptom.STRAGGLER,
    title="One rank is slow",
    meaning="A rank takes longer than the others for its own part of a step, and all wait for it.",
    looks="The step time is a level higher and nothing else changes; `rank_own_time` or "
    "`rank_data_time` of one rank stands out, while the others spend that time in the backward.",
    causes=(
        "Its data: a slower disk or mount, fewer DataLoader workers, longer samples in its shard.",
        "A host that shares its cores or memory with something else, or swaps.",
        "A GPU that is throttled by heat or power, or runs on fewer PCIe lanes.",
        "More work on one rank: logging, metrics, image dumps or a save on rank 0 at every step.",
        "Uneven shards: one rank has longer sequences or more boxes than the others.",
    ),
    fixes=(
        "It says whether the rank waits for data: then look at its loader, disk and mount.",
        "On its host: `top`, `nvidia-smi -q -d PERFORMANCE,CLOCK`, `nvidia-smi topo -m`.",
        "Swap two hosts: a slowness that goes with the host is the machine's, else the data's.",
        "Bucket by length, so that each rank has as many tokens; move what rank 0 alone does "
        "to every 100th step or to another thread.",
        "Leave the host out and start again from a checkpoint.",
    ),
    guard="It is told; nothing is done.",
    misses=(
        "A GPU that is slow while its host is not: times are the host's, and nothing waits for the "
        "device. A slow loader or a slow host is seen.",
        "On two GPUs only waits for data are compared.",
        "With weights cut over ranks (FSDP) the forward waits for others too and is left out, so "
        "that a rank with slow kernels looks like the others.",
        "Ranks where half or more are slow: then slow is usual.",
        "A slowness of less than a tenth of the step, of less than 5 ms, or shorter than 96 steps.",
    ),
    false_alarms=(
        "Work that one rank alone is meant to do at every step, say a teacher or a logger.",
        "Pipeline stages, which differ by design: raise `ratio` or switch it off in the policy.",
    ),
    sources=(
        "Wu et al., FALCON: Pinpointing and Mitigating Stragglers for Large-Scale Hybrid-Parallel "
        "Training, 2024",
        "Jiang et al., MegaScale, NSDI 2024",
    ),
    also_called=("slow_rank", "slow rank", "imbalance"),
)

RANK_DESYNC = Advice(
    symptom=Symptom.RANK_DESYNC,
    title="Replicas disagree",
    meaning="Ranks that must have the same weights, bit for bit, no longer do: from here on they "
    "train different models and average the gradients.",
    looks="Nothing at all, for long: the loss of rank 0 may stay fine. Checksums of the weights "
    "differ from one sample to the next.",
    causes=(
        "Silent data corruption: a bit flipped in memory, or a core that computes wrongly.",
        "Code that changes weights on one rank only: a clamp, a reset or a load behind "
        "`if rank == 0`.",
        "An update that one rank skipped: a NaN check or a `continue` of its own.",
        "Gradients that are not put together: a model called past its DDP wrapper, `no_sync` at "
        "the last micro-batch, parameters added after wrapping.",
        "Randomness in the update (stochastic rounding) with another seed on each rank.",
    ),
    fixes=(
        "Go back to a checkpoint from before the onset; a later one is of the wrong weights on "
        "that rank.",
        "The same rank again after a restart: leave the host out, and test it (`dcgmi diag -r 4`, "
        "`nvidia-smi -q -d ECC`).",
        "As a stopgap `torch.distributed.broadcast` weights and moments from a rank that is "
        "among the equal ones.",
        "Decide on all ranks together what to skip: `all_reduce` the flag.",
        "Call the wrapped model (`ddp_model(x)`, not `ddp_model.module(x)`) in training.",
    ),
    guard="It is told, with the rank; nothing is done. A rollback to before the onset makes them "
    "equal again where snapshots are older than the fault.",
    misses=(
        "What is not whole on several ranks: shards have no replica to be compared with.",
        "Replicas that were never equal: they are compared only after two equal samples.",
        "Moments of the optimizer and frozen weights; they show once the weights follow.",
        "Buffers: running statistics differ between healthy ranks.",
        "A fault that all replicas share, say in gradients before they are put together.",
        "Up to 16 steps pass until it is seen.",
    ),
    false_alarms=(
        "Trainings that are equal at first and then average their weights only now and then (local "
        "SGD after a warm-up): switch it off in the policy.",
    ),
    sources=(
        "Dixit et al., Silent Data Corruptions at Scale, 2021",
        "Grattafiori et al., The Llama 3 Herd of Models, 2024, section 3.3.4",
    ),
    also_called=("sdc", "silent data corruption", "desync", "replicas", "bit_flip"),
)

ALL = (STRAGGLER, RANK_DESYNC)
