"""What PyTorch's flight recorders know of the collectives of this process: NCCL's, and gloo's."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

_DUMPS = ("_dump_nccl_trace_json", "_dump_fr_trace_json")
"""Of NCCL, and of the other backends (gloo, where torch records it)."""
_MOST_ENTRIES = 256
_MOST_CHARACTERS = 300_000


def collectives() -> str:
    """The newest entries of each recorder, one JSON object a line; empty where nothing is recorded.

    Recording is PyTorch's own (`TORCH_FR_BUFFER_SIZE`, on by default in newer versions). Never
    waits for a device. Called in the link's thread.
    """
    with suppress(Exception):
        import torch.distributed as dist

        if not (dist.is_available() and dist.is_initialized()):
            return ""
        from torch._C import _distributed_c10d

        dumps = (getattr(_distributed_c10d, name, None) for name in _DUMPS)
        said = (_newest(dump) for dump in dumps if dump is not None)
        return "\n".join(filter(None, said))
    return ""


def _newest(dump: Any) -> str:
    """Whole JSON that fits into a message; empty without entries, or where the dump fails."""
    with suppress(Exception):
        recorded = json.loads(dump(includeCollectives=True, onlyActive=False))
        entries = recorded["entries"][-_MOST_ENTRIES:]
        while entries:
            text = json.dumps({**recorded, "entries": entries})
            if len(text) <= _MOST_CHARACTERS:
                return text
            entries = entries[len(entries) // 2 + 1 :]
    return ""
