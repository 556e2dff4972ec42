"""Pictures of logs."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from lossguard.agent import plotting
from lossguard.agent.backtest import Backtest, backtest
from lossguard.agent.backtest_pictures import pictures_for
from lossguard.agent.logs import Place
from lossguard.agent.plot_panel import COLOURS
from lossguard.agent.policy_file import shipped_policy
from lossguard.errors import LossguardError, UsageError
from tests.support.logs import open_all
from tests.support.streams import healthy_losses


def judged(folder: Path, *, spike: bool, rows: int = 400) -> Backtest:
    """A log with every usual metric; with a spike and a NaN, or healthy."""
    lines = ["step,loss,grad_norm,lr,val_loss"]
    for step, loss in enumerate(healthy_losses(rows)):
        norm = 0.5 + step % 5 / 50
        if spike and step in (200, 201):
            loss, norm = 500.0, 90.0
        if spike and step == 300:
            loss = math.nan
        lines.append(f"{step},{loss},{norm},{1e-3 * (1 - step / 2 / rows)},"
                     f"{2 + 1 / (step + 1) if step % 50 == 0 else ''}")  # fmt: skip
    path = folder / "log.csv"
    path.write_text("\n".join(lines))
    (log,) = open_all(path)
    return backtest(log, shipped_policy("observe"))


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """What is drawn, as matplotlib has it."""
    made: list[Figure] = []
    save = Figure.savefig

    def spy(figure: Figure, *args: object, **options: object) -> None:
        made.append(figure)
        save(figure, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", spy)
    return made


def has_colour(picture: Path, colour: str) -> bool:
    """Whether a picture has pixels of about this colour."""
    pixels = matplotlib.image.imread(picture)[..., :3]
    wanted = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return bool((np.abs(pixels - wanted).max(axis=-1) < 0.02).any())


def test_a_panel_a_metric_on_common_steps(tmp_path: Path, figures: list[Figure]) -> None:
    """The loss on a logarithmic axis, for it spans decades; the learning rate never."""
    plotting.draw(judged(tmp_path, spike=True), tmp_path / "log.png")
    panels = figures[0].axes
    assert [panel.get_ylabel() for panel in panels] == [
        "loss", "validation loss", "gradient norm", "learning rate"
    ]  # fmt: skip
    assert [panel.get_yscale() for panel in panels] == ["log", "linear", "log", "linear"]
    assert len({panel.get_xlim() for panel in panels}) == 1
    (legend,) = figures[0].legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert "critical: onset, and how long" in labels
    assert "NaN or Inf" in labels


def test_findings_are_marked_in_their_colour_and_described(
    tmp_path: Path, figures: list[Figure]
) -> None:
    """A healthy log has no marks."""
    result = judged(tmp_path, spike=True)
    plotting.draw(result, tmp_path / "bad.png")
    texts = [text.get_text() for text in figures[0].texts]
    assert any("critical loss_spike, steps 200" in text for text in texts)
    assert any(result.file in text for text in texts)
    assert has_colour(tmp_path / "bad.png", COLOURS["critical"])
    healthy = judged(tmp_path, spike=False)
    plotting.draw(Backtest(healthy.file, healthy.account, 1, [], runs=healthy.runs),
                  tmp_path / "good.png")  # fmt: skip
    assert not has_colour(tmp_path / "good.png", COLOURS["critical"])
    assert figures[1].axes[0].get_yscale() == "linear"
    assert not figures[1].legends


@pytest.mark.parametrize(
    "content",
    [
        "step,loss\n5,2\n",
        "step,loss\n1,nan\n2,inf\n",
        "step,loss\n1,-2\n2,1e30\n",
        "step,input_length\n1,5\n",
    ],
)
@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_any_log_can_be_drawn(tmp_path: Path, content: str, suffix: str) -> None:
    """One point, nothing finite, negative and giant values, a metric that is seldom drawn."""
    path = tmp_path / "log.csv"
    path.write_text(content)
    (log,) = open_all(path)
    picture = tmp_path / f"log.{suffix}"
    plotting.draw(backtest(log, shipped_policy("observe")), picture)
    assert picture.stat().st_size > 1000


def test_a_picture_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    with pytest.raises(LossguardError, match="cannot be drawn"):
        plotting.draw(judged(tmp_path, spike=False), tmp_path / "missing" / "log.png")


def test_without_matplotlib_it_is_said_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any work is done, and whoever draws."""
    place = Place("a.csv", tmp_path / "a.csv")
    result = judged(tmp_path, spike=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LossguardError, match="pip install matplotlib"):
        pictures_for([place], str(tmp_path / "a.png"))
    assert pictures_for([place], None) == [None]
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(LossguardError, match="pip install matplotlib"):
        plotting.draw(result, tmp_path / "a.png")


def test_one_log_one_picture(tmp_path: Path) -> None:
    """Several need a folder, which is made; a picture has a suffix that can be drawn."""
    one, two = (Place(name, tmp_path / name) for name in ("x/a.csv.gz", "y/a.csv"))
    assert pictures_for([one], str(tmp_path / "p" / "a.svg")) == [tmp_path / "p" / "a.svg"]
    with pytest.raises(UsageError, match="one picture for 2 logs: name a folder"):
        pictures_for([one, two], str(tmp_path / "a.png"))
    with pytest.raises(UsageError, match=r"pictures end in \.png"):
        pictures_for([one], str(tmp_path / "a.xyz"))
    folder = f"{tmp_path}/new/"
    assert pictures_for([one, two], folder) == [
        tmp_path / "new" / "x-a.png", tmp_path / "new" / "y-a.png"
    ]  # fmt: skip
    assert pictures_for([one, one], folder) == [
        tmp_path / "new" / "x-a.png", tmp_path / "new" / "x-a-2.png"
    ]  # fmt: skip
    assert (tmp_path / "new").is_dir()


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LossguardError, match="cannot be made"):
        pictures_for([Place("a", tmp_path / "a")], f"{tmp_path}/file/pictures/")


def test_matplotlib_is_loaded_by_who_draws_and_by_nobody_else() -> None:
    """A backtest without pictures works without it."""
    code = "import lossguard.agent.backtest_session, sys; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
