"""Many logs at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from lossguard.agent.backtest_batch import Job, Outcome, Request, run_jobs
from lossguard.agent.logs import LogOptions, Place, find_places
from lossguard.agent.policy_file import shipped_policy
from lossguard.agent.policy_settings import Policy
from lossguard.detectors import Severity
from tests.support.streams import healthy_losses

REQUEST = Request(policy=shipped_policy("observe"))


def write(path: Path, spike_at: int | None) -> Path:
    """A healthy loss, with a spike or without."""
    losses = healthy_losses(120)
    if spike_at is not None:
        losses[spike_at] = 50.0
    path.write_text("step,loss\n" + "".join(f"{s},{x}\n" for s, x in enumerate(losses)))
    return path


def jobs_for(paths: Sequence[Path]) -> list[Job]:
    """One for each place."""
    return [Job(place) for path in paths for place in find_places(str(path))]


def essence(outcomes: Sequence[Outcome]) -> list[object]:
    """What is to be the same however it was computed."""
    return [
        (o.job.place.name, o.error, [list(result.lines()) for result in o.results])
        for o in outcomes
    ]


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Eight logs; the third is broken, the sixth is not there."""
    found = [write(tmp_path / f"{i}.csv", 60 + i if i % 2 else None) for i in range(8)]
    found[2].write_bytes(b"\0\1\2" * 100)
    found[5].unlink()
    return found


def test_processes_give_what_one_gives_in_the_same_order(paths: list[Path]) -> None:
    """And one bad file does not stop the others."""
    one = list(run_jobs(jobs_for(paths), REQUEST, processes=1))
    two = list(run_jobs(jobs_for(paths), REQUEST, processes=2))
    assert essence(one) == essence(two)
    assert [bool(o.error) for o in one] == [False, False, True, False, False, True, False, False]
    spikes = [
        o.results[0].findings[0].onset_step for o in one if o.results and o.results[0].findings
    ]
    assert spikes == [61, 63, 67]


class Deadly(Place):
    """Ends the process that opens it, if that is not the one that made it."""

    def open(self, options: LogOptions) -> list[object]:  # type: ignore[override]
        if os.getpid() != int(self.folder):
            os._exit(9)
        return []


def test_a_process_that_dies_takes_only_its_own_file_along(paths: list[Path]) -> None:
    """Out of memory, say."""
    jobs = jobs_for(paths)
    jobs[1] = Job(Deadly("deadly.csv", paths[1], folder=str(os.getpid())))
    outcomes = list(run_jobs(jobs, REQUEST, processes=2))
    assert [o.job.place.name for o in outcomes] == [job.place.name for job in jobs]
    assert outcomes[1].error == "deadly.csv: the process that read it died"
    others = [o for i, o in enumerate(outcomes) if i != 1]
    assert essence(others) == essence([
        o for i, o in enumerate(run_jobs(jobs_for(paths), REQUEST, processes=1)) if i != 1
    ])  # fmt: skip


def test_progress_reaches_the_end(paths: list[Path]) -> None:
    """Through all of the files."""
    shares: list[float] = []
    list(run_jobs(jobs_for(paths), REQUEST, processes=1, progress=shares.append))
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_file_without_metrics_in_a_folder_is_no_mistake(tmp_path: Path) -> None:
    """Named by itself it is one."""
    (tmp_path / "mood.csv").write_text("step,mood\n1,2\n")
    (in_folder,) = run_jobs(jobs_for([tmp_path]), REQUEST)
    (named,) = run_jobs(jobs_for([tmp_path / "mood.csv"]), REQUEST)
    assert in_folder.error
    assert named.error == in_folder.error
    assert (in_folder.is_no_log, named.is_no_log) == (True, False)


def test_what_is_wanted_travels_to_the_processes(tmp_path: Path) -> None:
    """Policy, columns, severity."""
    for name in ("a.csv", "b.csv"):
        write(tmp_path / name, 60)
        text = (tmp_path / name).read_text().replace("loss", "mine")
        (tmp_path / name).write_text(text)
    request = Request(
        policy=REQUEST.policy,
        options=LogOptions(columns={"loss": "mine"}),
        min_severity=Severity.WARNING,
        explain=True,
    )
    for outcome in run_jobs(jobs_for([tmp_path]), request, processes=2):
        (result,) = outcome.results
        (finding,) = result.findings
        assert finding.onset_step == 60
        assert len(result.explanations) == 1
    deaf = Request(
        policy=Policy(name="deaf", acts=False, disabled=frozenset({finding.symptom})),
        options=request.options,
        min_severity=Severity.WARNING,
    )
    for outcome in run_jobs(jobs_for([tmp_path]), deaf, processes=2):
        assert outcome.results[0].findings == []
