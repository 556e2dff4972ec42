"""What PyTorch's flight recorder knows of the collectives of this process, where there is NCCL."""

from __future__ import annotations

from contextlib import suppress

_MOST_CHARACTERS = 400_000


def collectives() -> str:
    """Its newest entries as JSON; empty without NCCL, or where it records nothing.

    Recording is PyTorch's own (`TORCH_NCCL_TRACE_BUFFER_SIZE`, on by default in newer versions).
    Never waits for a device. Called in the link's thread.
    """
    with suppress(Exception):
        import torch.distributed as dist

        if not (dist.is_available() and dist.is_initialized() and dist.is_nccl_available()):
            return ""
        from torch._C import _distributed_c10d

        dump = getattr(_distributed_c10d, "_dump_nccl_trace_json", None)
        if dump is None:
            return ""
        said = dump(includeCollectives=True, onlyActive=False)
        text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
        return text[-_MOST_CHARACTERS:]
    return ""
