"""What stops a run altogether."""

from __future__ import annotations

from lossguard.detectors.advice.record import Advice
from lossguard.detectors.base import Symptom

HANG = Advice(
    symptom=Symptom.HANG,
    title="The run stands still",
    meaning="The process is there and the loop does nothing, for longer than it ever took.",
    looks="The curve just ends. GPUs may show 100 % all the same: a waiting NCCL kernel spins.",
    causes=(
        "A DataLoader worker that waits for a lock, for a full pipe or for a network disk.",
        "One rank left the loop, or took another branch, and the others wait in a collective.",
        "A rank that waits for data, or for a file that never comes, while the others wait for it.",
        "An endless loop in the loss, in a callback or in a data transform.",
        "Native code that never gives the interpreter's lock back.",
        "SIGSTOP, Ctrl-Z, or a frozen container: said as such, and as a warning only.",
    ),
    fixes=(
        "Read `stacks.txt` of the incident: the thread that trains, and the workers below it.",
        "Of several ranks look at the one that is named, not at those that wait for it.",
        "DataLoader: `timeout=60`, `multiprocessing_context='spawn'`, `num_workers=0` to see "
        "whether it goes away; no locks or open connections made before the fork.",
        "Collectives: the same number of batches on every rank (`join`, `drop_last`); "
        "`TORCH_NCCL_TRACE_BUFFER_SIZE=2000` and `TORCH_NCCL_DUMP_ON_TIMEOUT=1` for the next time.",
        "Let a policy stop it, so that the launcher can begin again from a checkpoint: a rule for "
        "`hang` with the rung `stop`.",
    ),
    guard="Stacks of all its processes are read, and kept with the incident. Nothing else, unless "
    "a rule of the policy stops it (SIGTERM, then SIGKILL).",
    misses=(
        "A loop that goes on without training anything: every forward counts as a sign of life.",
        "A process on another host that says nothing more: that may be the network.",
        "Anything shorter than 24 s, or than five times what its phase took before.",
    ),
    false_alarms=(
        "Half a minute of the script's own work between two steps that was never seen before: "
        "raise `after_s` under `[hang]` in the policy.",
    ),
    sources=("PyTorch: Flight Recorder for Debugging Stuck Jobs", "py-spy"),
    also_called=("standstill", "deadlock", "frozen", "timeout", "nccl timeout"),
)

PROCESS_EXIT = Advice(
    symptom=Symptom.PROCESS_EXIT,
    title="The process is dead",
    meaning="A training process ended in another way than by getting to its end.",
    looks="The curve just ends.",
    causes=(
        "An exception in the script: its traceback is kept with the incident.",
        "The kernel's out-of-memory killer (SIGKILL): DataLoader workers copy more than expected, "
        "or a checkpoint doubled the memory for a moment.",
        "A scheduler that took the machine back (SIGTERM, then SIGKILL).",
        "A crash in native code (SIGSEGV, SIGABRT, SIGBUS: often shared memory that is full).",
        "A launcher that ends all ranks because one has failed: look at the one that died first.",
    ),
    fixes=(
        "Exit by SIGKILL: `dmesg -T | grep -i oom`, the memory in the incident, fewer workers.",
        "SIGBUS: more `/dev/shm`, or the sharing strategy `file_system` of torch.multiprocessing.",
        "SIGSEGV: `python -X faulthandler`, the newest change of a CUDA extension.",
        "Handle SIGTERM by a checkpoint; start again from the newest one.",
    ),
    guard="It is told; the snapshots of a run that died stay on disk.",
    misses=(
        "How a process ended is known from the kernel on Linux 6.15 and later; before that only "
        "that it is gone.",
        "A run that ends early with exit code 0 looks finished.",
    ),
    false_alarms=("A run that was killed on purpose.",),
    sources=("linux/pidfd.h: PIDFD_INFO_EXIT",),
    also_called=("died", "killed", "oom_kill", "crash", "sigkill", "segfault", "exception"),
)

ALL = (HANG, PROCESS_EXIT)
