"""What importing the detectors costs."""

from __future__ import annotations

import subprocess
import sys

from lossguard import detectors


def test_importing_the_detectors_loads_no_heavy_module() -> None:
    """Neither scipy, nor torch, nor anything of the other side."""
    script = (
        "import sys, lossguard.detectors; "
        "heavy = {'scipy', 'torch', 'zmq', 'lossguard.agent', 'lossguard.probes'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_all_names_exist_and_defaults_are_fresh() -> None:
    """Every name in ``__all__`` is there, and default detectors are new instances."""
    assert all(hasattr(detectors, name) for name in detectors.__all__)
    first, second = detectors.default_detectors(), detectors.default_detectors()
    assert [type(d) for d in first] == list(detectors.CATALOGUE.values())
    assert all(a is not b for a, b in zip(first, second, strict=True))
