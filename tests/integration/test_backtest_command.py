"""``lossguard backtest`` as people and scripts call it."""

from __future__ import annotations

import gzip
import json
import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from lossguard.home import Home
from tests.support.binary_logs import write_events
from tests.support.logs import GOLDEN
from tests.support.streams import healthy_losses
from tests.support.waiting import PATIENCE_S, eventually


def command(
    *arguments: object, stdin: bytes = b"", cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """``lossguard backtest ARGUMENTS``."""
    done = subprocess.run(
        [sys.executable, "-m", "lossguard", "backtest", *map(str, arguments)],
        input=stdin, capture_output=True, check=False, cwd=cwd,
    )  # fmt: skip
    assert b"Traceback" not in done.stderr
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def objects(stdout: str) -> list[dict[str, object]]:
    """What ``--json`` printed."""
    return [json.loads(line) for line in stdout.splitlines()]


def table(losses: Sequence[float]) -> str:
    """A CSV."""
    return "step,loss\n" + "".join(f"{s},{x}\n" for s, x in enumerate(losses))


@pytest.fixture
def spiky(home: Home, tmp_path: Path) -> Path:
    """A log with a spike at step 100."""
    losses = healthy_losses(150)
    losses[100:102] = [50.0, 50.0]
    path = tmp_path / "spiky.csv"
    path.write_text(table(losses))
    return path


def test_findings_go_to_stdout_and_the_reading_to_stderr(spiky: Path) -> None:
    """Both for people and for scripts; ``--quiet`` says nothing."""
    for options in ([], ["--json"]):
        done = command(spiky, *options)
        assert done.returncode == 0
        assert f"{spiky}: CSV, 150 lines; recognised step, loss" in done.stderr
        assert "recognised" not in done.stdout
        assert "loss_spike" in done.stdout
        assert command(spiky, *options, "--quiet").stderr == ""
    spikes = [o for o in objects(command(spiky, "--json").stdout) if o["symptom"] == "loss_spike"]
    assert [spike["onset_step"] for spike in spikes] == [100]


def test_every_format_is_read_by_the_same_command(home: Home, tmp_path: Path) -> None:
    """The NaN at step 25 is found in the logs of two programs, and in a compressed copy."""
    packed = tmp_path / "packed.wandb.gz"
    packed.write_bytes(gzip.compress((GOLDEN / "run-golden.wandb").read_bytes()))
    files = [GOLDEN / "events.out.tfevents.golden", GOLDEN / "run-golden.wandb", packed]
    done = command(*files, "--json")
    assert done.returncode == 0
    found = [
        (o["file"], o["onset_step"]) for o in objects(done.stdout) if o["symptom"] == "nonfinite"
    ]
    assert found == [(str(file), 25) for file in files]


def test_a_bad_file_does_not_stop_the_others_and_fails_the_command(spiky: Path) -> None:
    """With 65; every file is answered for, in order."""
    bad = spiky.with_name("bad.csv")
    bad.write_text("step,mood\n1,2\n")
    done = command("/nowhere.csv", spiky, bad, "--json")
    assert done.returncode == 65
    assert {o["file"] for o in objects(done.stdout)} == {str(spiky)}
    assert "lossguard: /nowhere.csv: cannot be read" in done.stderr
    assert f"lossguard: {bad}: read as CSV, but none of the columns (step, mood)" in done.stderr


def test_folders_are_read_whole(spiky: Path, tmp_path: Path) -> None:
    """What is no log in them is passed over; a folder with none at all is a mistake."""
    (tmp_path / "mood.csv").write_text("step,mood\n1,2\n")
    (tmp_path / "tb").mkdir()
    write_events(
        tmp_path / "tb" / "events.out.tfevents.1.a", [(s, {"loss": 2.0}) for s in range(9)]
    )
    done = command(tmp_path)
    assert done.returncode == 0
    assert f"passed over {tmp_path / 'mood.csv'}" in done.stderr
    assert done.stdout.splitlines()[-1].startswith("2 logs, 1 with findings")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "mood.csv").write_text("step,mood\n1,2\n")
    done = command(empty)
    assert done.returncode == 65
    assert f"{empty}: no log in this folder has metrics" in done.stderr


def test_processes_do_not_change_what_is_printed(spiky: Path, tmp_path: Path) -> None:
    """Neither what nor the order."""
    files = [spiky] + [tmp_path / f"{i}.csv" for i in range(5)]
    for i, path in enumerate(files[1:]):
        losses = healthy_losses(150, seed=i)
        losses[60 + i] = 50.0
        path.write_text(table(losses))
    one, three = (command(*files, "--json", "--jobs", jobs) for jobs in (1, 3))
    assert one.returncode == three.returncode == 0
    assert one.stdout == three.stdout
    assert one.stderr == three.stderr


def test_standard_input_is_read(spiky: Path) -> None:
    """``ssh host cat log.csv | lossguard backtest -``."""
    done = command("-", "--json", stdin=spiky.read_bytes())
    assert done.returncode == 0
    assert {o["file"] for o in objects(done.stdout)} == {"-"}


def test_columns_and_patterns_say_how_to_read(spiky: Path) -> None:
    """Several at once, or one after the other."""
    odd = spiky.with_name("odd.txt")
    odd.write_text(spiky.read_text().replace("step,loss", "when,how bad"))
    columns = ["--columns", "step=when,loss=how bad"]
    done = command(odd, "--json", *columns)
    assert [o["onset_step"] for o in objects(done.stdout) if o["symptom"] == "loss_spike"] == [100]
    apart = command(odd, "--json", "--columns", "step=when", "--columns", "loss=how bad")
    assert apart.stdout == done.stdout
    done = command(odd, "--json", "--pattern", r"^(?P<step>\d+),(?P<loss>.+)$")
    assert [o["onset_step"] for o in objects(done.stdout) if o["symptom"] == "loss_spike"] == [100]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--columns", "loss"], "write METRIC=COLUMN"),
        (["--columns", "mood=x"], "is no metric"),
        (["--pattern", "("], "is no regular expression"),
        (["--pattern", "x"], "has no named group"),
        (["--plot", "x.exe"], "pictures end in"),
        (["--min-severity", "awful"], "awful"),
        (["--jobs", "0"], "'--jobs'"),
    ],
)
def test_wrong_options_exit_with_2(spiky: Path, options: list[str], why: str) -> None:
    """And say what would make sense."""
    done = command(spiky, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert why in done.stderr


def test_an_unknown_policy_exits_with_78(spiky: Path) -> None:
    done = command(spiky, "--policy", "nonsense")
    assert done.returncode == 78
    assert "nonsense" in done.stderr


def test_a_policy_file_sets_the_detectors(spiky: Path, tmp_path: Path) -> None:
    """What it disables is not found."""
    policy = tmp_path / "deaf.toml"
    policy.write_text('name = "deaf"\nbase = "observe"\n[detectors]\nloss_spike = false\n')
    symptoms = [
        {str(o["symptom"]) for o in objects(command(spiky, "--json", *options).stdout)}
        for options in ([], ["--policy", policy])
    ]
    assert "loss_spike" in symptoms[0]
    assert "loss_spike" not in symptoms[1]


def test_severity_and_explanations(spiky: Path) -> None:
    """In JSON the evidence is an object more."""
    done = command(spiky, "--json", "--explain", "--min-severity", "warning")
    found = objects(done.stdout)
    assert found
    assert {str(o["severity"]) for o in found} <= {"warning", "critical"}
    assert all(set(o["evidence"]) >= {"numbers", "around_onset"} for o in found)  # type: ignore[call-overload]
    assert "loss around the onset: 96: 2." in command(spiky, "--explain").stdout


def test_pictures_are_drawn(spiky: Path, tmp_path: Path) -> None:
    """One by name, several in a folder."""
    done = command(spiky, "--plot", tmp_path / "one.png")
    assert done.returncode == 0
    assert f"drawn in {tmp_path / 'one.png'}" in done.stderr
    other = tmp_path / "other.csv"
    other.write_text(table(healthy_losses(50)))
    done = command(spiky, other, "--plot", f"{tmp_path}/pictures/", "--jobs", 2)
    assert done.returncode == 0
    pictures = [tmp_path / "one.png", *sorted((tmp_path / "pictures").iterdir())]
    assert [picture.name for picture in pictures] == ["one.png", "other.png", "spiky.png"]
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_a_terminal_gets_a_table_with_colours(spiky: Path) -> None:
    """And none with ``NO_COLOR``."""

    def on_terminal(**environment: str) -> str:
        leader, follower = pty.openpty()
        try:
            done = subprocess.run(
                [sys.executable, "-m", "lossguard", "backtest", str(spiky)],
                stdin=subprocess.DEVNULL, stdout=follower, stderr=subprocess.PIPE, check=True,
                env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", **environment},
            )  # fmt: skip
            assert done.returncode == 0
            return os.read(leader, 1 << 16).decode()
        finally:
            os.close(leader)
            os.close(follower)

    os.environ.pop("NO_COLOR", None)
    colourful, plain = on_terminal(), on_terminal(NO_COLOR="1")
    assert "loss_spike" in colourful
    assert "\x1b[1;31m" in colourful
    assert "\x1b[1;31m" not in plain
    assert "loss_spike" in plain


def test_no_process_outlives_the_command(home: Home, tmp_path: Path) -> None:
    """Not even when it is killed with no chance to clean up."""
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(table([2.0 + i % 7 / 100 for i in range(200_000)]))
    command = [sys.executable, "-m", "lossguard", "backtest", str(tmp_path), "-q", "-j", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    parent = psutil.Process(process.pid)
    try:
        # Two workers, and what Python starts to look after them.
        eventually(lambda: len(parent.children()) >= 3)
        children = parent.children()
    finally:
        process.kill()
        process.wait()
    gone, alive = psutil.wait_procs(children, timeout=PATIENCE_S)
    assert not alive
    assert len(gone) >= 3
