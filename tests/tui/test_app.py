"""The dashboard as a whole: its screens, what it says when nothing is there, its conventions."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lossguard.agent import feed
from lossguard.tui.app import PAGES
from lossguard.tui.source import Glimpse
from tests.tui import pictures
from tests.tui.driving import seat
from tests.tui.pictures import StillSource

SNAPSHOTS = Path(__file__).parent / "snapshots"
SIZES = [(80, 24), (130, 40), (240, 60)]


@pytest.fixture(autouse=True)
def in_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clock times are the same everywhere."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    "size", [*SIZES[:2], pytest.param(SIZES[2], marks=pytest.mark.slow)], ids=str
)
async def test_the_screens_look_as_they_did(size: tuple[int, int]) -> None:
    """The same picture gives the same text; LOSSGUARD_UPDATE_SNAPSHOTS=1 accepts a new look."""
    picture = pictures.picture(beside=pictures.beside())
    async with seat(StillSource(Glimpse(picture)), size=size) as here:
        for i, name in enumerate(PAGES):
            if size == SIZES[2] and name not in ("run-page", "incidents-page"):
                continue
            shown = await here.press(str(i + 1))
            if name == "incidents-page":
                here.source.heard = [pictures.story()]
                shown = await here.look()
            path = SNAPSHOTS / f"{name}-{size[0]}x{size[1]}.txt"
            if os.environ.get("LOSSGUARD_UPDATE_SNAPSHOTS"):
                path.parent.mkdir(exist_ok=True)
                path.write_text(shown, encoding="utf-8")
            assert shown == path.read_text(encoding="utf-8"), name


@pytest.mark.slow
async def test_every_size_shows_what_matters() -> None:
    """From 80 by 24 cells on, run, charts and incidents are on the screen; less raises nothing."""
    async with seat() as here:
        for size in (*SIZES, (40, 12), (100, 24), (20, 5), (1, 1), (80, 60)):
            await here.pilot.resize_terminal(*size)
            await here.pilot.pause()
            shown = await here.press("2")
            if size[0] < 80 or size[1] < 24:
                for page in "13456":
                    await here.press(page)
                continue
            for words in ("llama-350m-fineweb", "running", "2.414", "gradient norm", "clipping"):
                assert words in shown, size
            assert "limit 3.1" in shown
            assert "◆" in shown
            assert "● live" in shown


async def test_nothing_running_says_what_to_do() -> None:
    """Without runs the next command is on the screen, and a run is shown once it comes."""
    async with seat(StillSource(Glimpse(pictures.EMPTY)), size=(80, 24), run="") as here:
        assert "lossguard run --guard your_script.py" in here.text
        assert "agent 4242" in here.text
        alone = pictures.picture(runs=[pictures.run_summary()])
        assert "gradient norm" in await here.look(Glimpse(alone))
        assert here.page == "run-page"


async def test_of_several_runs_one_chooses() -> None:
    """With more than one run the list comes first."""
    async with seat(run="") as here:
        assert here.page == "runs-page"


async def test_no_agent_from_the_start_says_so() -> None:
    """First it asks, then it says that nobody answers and that training goes on."""
    async with seat(StillSource(Glimpse(None, age_s=0.3))) as here:
        assert "asking the agent" in here.text
        gone = await here.look(Glimpse(None, age_s=4.0))
        assert "no agent answers; training goes on; waiting" in gone


async def test_a_lost_agent_is_said_and_the_last_picture_stays() -> None:
    """Old numbers are never shown as if they were new, and new ones take over again."""
    async with seat() as here:
        glimpse = here.source.glimpse
        gone = await here.look(dataclasses.replace(glimpse, age_s=42.0))
        assert "no agent answers" in gone
        assert "last picture 42 s ago" in gone
        assert "llama-350m-fineweb" in gone
        assert "● live" in await here.look(Glimpse(pictures.picture()))


async def test_the_state_of_the_run_is_said_in_words() -> None:
    """Nobody has to know a glyph."""
    async with seat() as here:
        for state, words in (
            ("silent", "the run is silent"),
            ("finished", "the run finished"),
            ("failed", "the run ended with an error"),
            ("stopped", "the run was stopped"),
            ("died", "the run died"),
        ):
            assert words in await here.look(runs=[pictures.run_summary(state=state)])


async def test_trouble_of_the_agent_is_shown_in_its_words() -> None:
    """A run that does not exist is not silently replaced by another."""
    async with seat() as here:
        trouble = Glimpse(pictures.picture(), trouble="no run is called [b]bert[/b]")
        assert "no run is called [b]bert[/b]" in await here.look(trouble)


async def test_a_policy_is_coloured_by_what_it_does_not_by_its_name() -> None:
    """One that acts says so under any name, and one called guard that does not, does not."""
    async with seat() as here:
        own = pictures.run_summary(policy="our-night-shift", acts=True)
        assert "our-night-shift: acts" in await here.look(runs=[own])
        posing = pictures.run_summary(policy="guard", acts=False)
        assert "guard: observes" in await here.look(runs=[posing])


async def test_only_what_is_looked_at_is_asked_for() -> None:
    """Each screen subscribes to its own; series, strips and ranks travel only for theirs."""
    async with seat() as here:
        wanted = here.source.wanted
        assert "loss" in wanted.metrics
        assert not wanted.strips
        assert not wanted.sparks
        asked: dict[str, feed.Subscribe] = {}
        for key in "13456":
            await here.press(key)
            asked[key] = here.source.wanted
        assert {asked[key].metrics for key in "13456"} == {()}
        assert asked["1"].sparks
        assert not asked["6"].sparks
        assert asked["3"].strips == ("grad_norm",)
        assert asked["4"].ranks
        assert asked["4"].strips == ("rank_step_time",)
        assert asked["6"].events > asked["5"].events


async def test_keys_lead_from_screen_to_screen_and_back() -> None:
    """Numbers, enter, esc, tab, a click on a tab, and q."""
    async with seat(run="") as here:
        await here.press("enter")
        assert here.page == "run-page"
        assert here.source.watched == ["r-8f3a"]
        await here.press("tab", "shift+tab")
        assert here.focus == "loss"
        for key, page in enumerate(PAGES, start=1):
            await here.press(str(key))
            assert here.page == page
        await here.press("escape")
        assert here.page == "runs-page"
        await here.pilot.click("#header", offset=(45, 0))
        await here.pilot.pause()
        assert here.page == "ranks-page"
        await here.press("q")
    assert here.app.return_code == 0
    assert here.source.closed


async def test_question_mark_explains_keys_and_signs() -> None:
    """Every state and severity is explained, and esc leads back."""
    async with seat(size=(130, 80)) as here:
        shown = await here.press("question_mark")
        assert here.dialog == "HelpScreen"
        for words in ("logarithmic", "silent:", "critical:", "a rollback", "NaN or Inf", "mute"):
            assert words in shown
        await here.press("j", "k", "escape")
        assert not here.dialog


async def test_values_that_are_not_finite_stand_out() -> None:
    """NaN and Inf are named with a sign, never an empty cell."""
    last = {"loss": float("nan"), "grad_norm": float("inf"), "lr": 1e-4}
    async with seat() as here:
        assert "✗ NaN" in await here.look(runs=[pictures.run_summary(last=last)])


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["textual-light", "nord"])
async def test_any_theme_will_do(theme: str) -> None:
    """Every screen is drawn in the colours of other themes, too."""
    async with seat() as here:
        here.app.theme = theme
        for key in "123456":
            assert "llama" in await here.press(key)


async def test_without_colours_everything_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR takes the colours, and heights and signs still say it."""
    monkeypatch.setenv("NO_COLOR", "1")
    async with seat() as here:
        shown = await here.press("3")
        assert "▇" in shown
        assert "▂" in shown
        assert "◆" in await here.press("5")
