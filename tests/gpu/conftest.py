"""Everything here needs a GPU, and is skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.e2e.conftest import own_home, served_home
from tests.unit.probes.conftest import watch

__all__ = ["own_home", "served_home", "watch"]


@pytest.fixture(autouse=True)
def gpu(home: object) -> Iterator[None]:
    """Deterministic kernels, and every wait for the device is found out by the test that looks."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(0)
    yield
    torch.cuda.set_sync_debug_mode("default")
    torch.use_deterministic_algorithms(False)
