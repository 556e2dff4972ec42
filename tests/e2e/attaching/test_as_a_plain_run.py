"""``lossguard run`` of anything is, for the script and for whoever started it, a plain run."""

from __future__ import annotations

import pytest

from tests.e2e.attaching.scripts import TRAINS, WATCHED, Scripts

pytestmark = pytest.mark.e2e

PRINTS_ALL = '''
"""Its docstring."""
import __main__, inspect, json, os, pickle, sys

class Thing:
    pass

def after_all(how):
    if how == "text": sys.exit("a last word")
    if how == "none": sys.exit(None)
    if how == "code": sys.exit(7)
    if how == "large": sys.exit(300)
    if how == "hard": os._exit(5)
    if how.isdigit(): os.kill(os.getpid(), int(how))
    if how == "error":
        try:
            1 / 0
        except ZeroDivisionError as error:
            raise ValueError("mine") from error

kinds = {k: type(v).__name__ for k, v in vars(__main__).items() if k.startswith("__")}
spec = __spec__ and (__spec__.name, __spec__.origin, __spec__.parent)
print(json.dumps([sys.argv, sys.path[0], __name__, __file__, __doc__, __package__, spec, kinds,
                  __main__ is sys.modules["__main__"], inspect.getsource(after_all)[:9],
                  type(pickle.loads(pickle.dumps(Thing()))) is Thing, __annotations__,
                  sys.stdin.read(), "torch" in sys.modules]), flush=True)
after_all(sys.argv[1] if sys.argv[1:] else "")
'''


def test_a_script_ends_as_it_would_alone(scripts: Scripts) -> None:
    """Exit code, text, exception and signal; and until then it finds itself as it would."""
    scripts.write("script.py", PRINTS_ALL)
    for how in ("", "text", "none", "code", "hard", "error", "2", "9"):
        plain = scripts.run("script.py", how, "--name", "-m")
        assert plain.stdout, how
        assert scripts.run(*WATCHED, "script.py", how, "--name", "-m") == plain, how


WAYS = (
    "./script.py",
    "folder/../script.py -v",
    "link.py",
    "folder",
    "-m script code",
    "-m package.train error",
    "-m package -- --guard",
    "-m nowhere",
    "-m script 2",
)


def test_it_may_be_named_in_any_way(scripts: Scripts) -> None:
    """By a path, through a link, as a folder, as a module, as a package."""
    for name in ("script.py", "folder/__main__.py", "package/train.py", "package/__main__.py"):
        scripts.write(name, PRINTS_ALL)
    scripts.write("package/__init__.py", "import sys; print('seen as', sys.argv[0])")
    (scripts.folder / "link.py").symlink_to("folder/__main__.py")
    for way in WAYS:
        plain = scripts.run(*way.split())
        assert plain.stdout + "".join(plain.stderr), way
        assert scripts.run(*WATCHED, *way.split()) == plain, way


FAILS_IN_BACKWARD = """
class Thrown(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return x.clone()
    @staticmethod
    def backward(ctx, grad): raise RuntimeError("in the backward")

train()
print(losses)
try:
    Thrown.apply(torch.ones((), requires_grad=True)).backward()
except RuntimeError as error:
    raise ValueError("after it") from error
"""


def test_a_traceback_through_what_we_changed_shows_nothing_of_us(scripts: Scripts) -> None:
    """``backward()`` is reached through a function of ours, which nobody has to know."""
    scripts.write("script.py", FAILS_IN_BACKWARD, begin=TRAINS)
    plain = scripts.run_warm("script.py")
    assert "in the backward" in "".join(plain.stderr)
    watched = scripts.run_warm(*WATCHED, "script.py")
    assert watched == plain
    assert watched.said, "it was watched"


def test_torchrun_starts_a_watched_script_as_a_plain_one(scripts: Scripts) -> None:
    """One worker; argument, folder, name, rank and losses are those of the script alone."""
    scripts.write(
        "script.py",
        "train()\nprint(sys.argv, sys.path[0], __name__, __file__, os.environ['RANK'], losses)",
        begin=TRAINS,
    )
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1")
    plain = scripts.run_warm("script.py", "-x", RANK="0")
    watched = scripts.run_warm(*torchrun, *WATCHED, "script.py", "-x")  # its worker is not
    assert (plain.code, watched.code) == (0, 0), (plain, watched)
    assert watched.stdout == plain.stdout
    assert "lossguard: the lossguard agent is there" in watched.said
