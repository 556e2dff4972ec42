"""What the shipped policies would do to other people's healthy runs."""

from __future__ import annotations

import pytest

from lossguard.agent.policy_file import shipped_policy
from lossguard.agent.policy_settings import detectors_for
from lossguard.detectors import Severity
from tests.contract.test_detectors_on_real_logs import DATA, labels, log, observations

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not DATA.is_dir(), reason="no labelled logs in ../shared/data"),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["classic", "strict"])
def test_a_sterner_policy_rolls_no_healthy_run_back_and_vetoes_next_to_nothing(name: str) -> None:
    """109,007 healthy observations: none critical, at most one in 10,000 vetoed."""
    total = vetoed = 0
    critical = []
    for label in labels("healthy"):
        detectors = detectors_for(shipped_policy(name))
        for observation in observations(log(label)):
            total += 1
            for detector in detectors:
                bounds = detector.bounds().items()
                vetoed += any(observation.values.get(m, bound) > bound for m, bound in bounds)
                finding = detector.update(observation)
                if finding is not None and finding.severity is Severity.CRITICAL:
                    critical.append((label["id"], finding))
    assert total > 100_000
    assert critical == []
    assert vetoed <= 1e-4 * total
