"""``LOSSGUARD=1 python script.py``: watched without a word more, in the processes that train."""

from __future__ import annotations

import pytest

from tests.e2e.attaching.scripts import TRAINS, WATCHED, Scripts, end
from tests.support.waiting import becomes, eventually

pytestmark = pytest.mark.e2e

FAMILY = """
import subprocess
from torch.utils.data import DataLoader

class Rows:
    def __len__(self): return len(data)
    def __getitem__(self, i): return data[i]

if __name__ == "__main__":
    WORKERS = os.environ["WORKERS"].split()  # with or without, as much is drawn at random
    for method in sys.argv[1:]:
        by = {"num_workers": 1, "multiprocessing_context": method} if method in WORKERS else {}
        train(batches=iter(DataLoader(Rows(), batch_size=8, **by)))
    subprocess.run([sys.executable, "-c", "print('a process beside it')"], check=True)
    child = os.fork()
    if child == 0:
        losses.clear()
        train(4)
        print("child", losses, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    train(2)
    print(sys.argv, sys.path[0], __file__, losses)
"""


@pytest.mark.parametrize(
    "methods",
    [
        ["fork", "spawn", "none"],
        pytest.param(["fork", "spawn", "forkserver"], marks=pytest.mark.slow),
    ],
)
def test_only_what_trains_is_a_run(scripts: Scripts, methods: list[str]) -> None:
    """Not the workers that load its data, nor what it starts beside; a child that trains is. The
    losses are those of a twin that loads its data itself."""
    scripts.write("script.py", FAMILY, begin=TRAINS)
    watched = scripts.run("script.py", *methods, LOSSGUARD="1", WORKERS="fork spawn forkserver")
    plain = scripts.run_warm("script.py", *methods, LOSSGUARD="0", WORKERS="")
    assert plain.code == 0, plain.stderr
    assert watched == plain
    assert watched.said
    assert not plain.said
    # Of each loop, and of the child; the last goodbye may still be on its way.
    becomes(
        lambda: sorted((run.state, run.step) for run in scripts.runs()),
        [("finished", 4), *[("finished", 6)] * 3],
    )


DROPS = """
import gc
train(30)
gc.collect()  # model and optimizer went with the function
if sys.argv[1] == "os._exit": os._exit(0)
"""


@pytest.mark.parametrize("how", ["return", "os._exit"])
def test_a_training_that_is_dropped_just_before_the_end_has_its_goodbye(
    scripts: Scripts, how: str
) -> None:
    scripts.write("script.py", DROPS, begin=TRAINS)
    assert scripts.run_warm(*WATCHED, "script.py", how).code == 0
    becomes(lambda: [(run.state, run.step) for run in scripts.runs()], [("finished", 30)])


ENDS = """
import signal
train()
sys.stdin.readline()
how = sys.argv[1]
if how == "os._exit": os._exit(0)
if how == "exit-3": sys.exit(3)
if how == "kill": os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_run_is_told_by_its_end(scripts: Scripts) -> None:
    """Also where Python has no say in it any more; and the setting picks the policy."""
    script = str(scripts.write("script.py", ENDS, begin=TRAINS))
    states = {
        "return": ("finished", "guard"),
        "os._exit": ("finished", "observe"),
        "exit-3": ("failed", "observe"),
        "kill": ("died", "observe"),
    }
    settings = {"return": "guard", "os._exit": "1"}
    processes = {
        how: scripts.begin(script, how, LOSSGUARD=settings[how], LOSSGUARD_NAME=how)
        if how in settings
        else scripts.begin("-m", "lossguard", "run", "--name", how, script, how)
        for how in states
    }
    eventually(lambda: {run.name for run in scripts.runs()} == set(states), 60.0)
    codes = {how: end(process).code for how, process in processes.items()}
    assert codes == {"return": 0, "os._exit": 0, "exit-3": 3, "kill": -9}
    # A death is only seen after some silence.
    becomes(lambda: {run.name: (run.state, run.policy) for run in scripts.runs()}, states)


CUSTOM = "import builtins; builtins.said = getattr(builtins, 'said', ()) + ({name!r},)"


def test_the_users_own_start_up_goes_on(scripts: Scripts) -> None:
    """Their ``sitecustomize`` runs as ever; and of ours nothing is loaded that is not needed."""
    scripts.write("sitecustomize.py", CUSTOM.format(name="site"))
    code = "import sys; print(said, 'lossguard' in sys.modules)"
    for setting in ("", "0", "1"):
        ended = scripts.run("-c", code, LOSSGUARD=setting, PYTHONPATH=str(scripts.folder))
        ours = setting == "1"
        assert ended.stdout.startswith(f"('site',) {ours}")
        assert (ended.code, ended.stderr) == (0, [])


def test_a_broken_installation_breaks_no_interpreter(scripts: Scripts) -> None:
    """Whatever goes wrong in us at the start: Python starts, and says nothing."""
    scripts.write("lossguard/__init__.py", "raise RuntimeError('half installed')")
    ended = scripts.run("-c", "print('up')", LOSSGUARD="1", PYTHONPATH=str(scripts.folder))
    assert (ended.code, ended.stdout, ended.stderr) == (0, "up\n", [])
