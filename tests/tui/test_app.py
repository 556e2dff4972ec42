"""The dashboard, driven by its keys and read as text."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.screen import Screen

from lossguard.agent import feed
from lossguard.tui.app import LossguardApp
from lossguard.tui.details import DetailsScreen
from lossguard.tui.help import HelpScreen
from lossguard.tui.incidents import Incidents
from lossguard.tui.runs import Runs
from lossguard.tui.source import Glimpse
from tests.tui import pictures
from tests.tui.pictures import StillSource

SIZES = [(80, 24), (120, 40), (240, 60)]
SNAPSHOTS = Path(__file__).parent / "snapshots"


def screen_text(app: LossguardApp) -> str:
    """What a person sees, without colours."""
    width, height = app.size
    lines = app.screen._compositor.render_strips()
    assert len(lines) == height
    assert {strip.cell_length for strip in lines} == {width}
    return "\n".join(strip.text.rstrip() for strip in lines) + "\n"


def focus_of(app: LossguardApp) -> str:
    """The id of the widget that has the focus."""
    return (app.focused.id or "") if app.focused else ""


def is_open(app: LossguardApp, screen: type[Screen[None]]) -> bool:
    """Whether this screen is on top."""
    return isinstance(app.screen, screen)


async def show(pilot: Pilot[None], source: StillSource, glimpse: Glimpse) -> str:
    """Let the app look at something new, and read the screen."""
    source.glimpse = glimpse
    app = pilot.app
    assert isinstance(app, LossguardApp)
    app.refresh_picture()
    await pilot.pause()
    return screen_text(app)


async def text_of(glimpse: Glimpse, size: tuple[int, int] = (120, 40)) -> str:
    """The screen for one glimpse."""
    source = StillSource(glimpse)
    async with LossguardApp(source).run_test(size=size) as pilot:
        await pilot.pause()
        return await show(pilot, source, glimpse)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
async def test_the_screen_looks_as_it_did(size: tuple[int, int]) -> None:
    """The same picture gives the same text; LOSSGUARD_UPDATE_SNAPSHOTS=1 accepts a new look."""
    shown = await text_of(Glimpse(pictures.picture()), size)
    path = SNAPSHOTS / f"dashboard-{size[0]}x{size[1]}.txt"
    if os.environ.get("LOSSGUARD_UPDATE_SNAPSHOTS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(shown, encoding="utf-8")
    assert shown == path.read_text(encoding="utf-8")


async def test_every_size_shows_what_matters() -> None:
    """From 80 by 24 cells on, run, charts and incidents are on the screen; less raises nothing."""
    source = StillSource()
    app = LossguardApp(source)
    async with app.run_test(size=(120, 40)) as pilot:
        for size in (*SIZES, (40, 12), (100, 24), (20, 5), (1, 1), (80, 60)):
            await pilot.resize_terminal(*size)
            await pilot.pause()
            shown = await show(pilot, source, Glimpse(pictures.picture()))
            if size[0] < 80 or size[1] < 24:
                continue
            for words in ("llama-350m-fineweb", "running", "2.414", "gradient norm", "clipping"):
                assert words in shown, size
            assert "limit 3.1" in shown
            assert "◆" in shown
            assert "● live" in shown


async def test_nothing_running_says_what_to_do() -> None:
    """An agent without runs: the next command is on the screen."""
    shown = await text_of(Glimpse(pictures.EMPTY), (80, 24))
    assert "lossguard run --guard your_script.py" in shown
    assert "agent 4242" in shown


async def test_no_agent_from_the_start_says_so() -> None:
    """First it asks, then it says that nobody answers and that training goes on."""
    source = StillSource(Glimpse(None, age_s=0.3))
    async with LossguardApp(source).run_test() as pilot:
        assert "asking the agent" in await show(pilot, source, Glimpse(None, age_s=0.3))
        gone = await show(pilot, source, Glimpse(None, age_s=4.0))
        assert "no agent answers; training goes on; waiting" in gone
        assert "lossguard run --guard" in gone


async def test_an_agent_that_goes_away_leaves_the_last_picture_and_a_plain_word() -> None:
    """The age is told, the picture stays, and all is well again when it is back."""
    source = StillSource()
    async with LossguardApp(source).run_test(size=(120, 40)) as pilot:
        picture = pictures.picture()
        assert "no agent answers" not in await show(pilot, source, Glimpse(picture))
        gone = await show(pilot, source, Glimpse(picture, age_s=42.0))
        assert "no agent answers; training goes on; waiting…  last picture 42 s ago" in gone
        assert "2.414" in gone
        assert pilot.app.screen.has_class("-gone")
        assert "● live" in await show(pilot, source, Glimpse(picture))
        assert not pilot.app.screen.has_class("-gone")


async def test_the_state_of_the_run_is_said_in_words() -> None:
    """Nobody has to know a glyph."""
    source = StillSource()
    async with LossguardApp(source).run_test(size=(120, 40)) as pilot:
        for state, words in (
            ("silent", "the run is silent"),
            ("finished", "the run finished"),
            ("failed", "the run ended with an error"),
            ("stopped", "the run was stopped"),
            ("died", "the run died"),
        ):
            picture = pictures.picture(runs=[pictures.run_summary(state=state)])
            assert words in await show(pilot, source, Glimpse(picture))


async def test_trouble_of_the_agent_is_shown_in_its_words() -> None:
    """A run that does not exist is not silently replaced by another."""
    glimpse = Glimpse(pictures.picture(), trouble="no run is called [b]bert[/b]")
    assert "no run is called [b]bert[/b]" in await text_of(glimpse)


async def test_enter_on_a_run_shows_that_run() -> None:
    """Down and enter ask the source for the next run, and its picture replaces the first."""
    other = pictures.picture(run="r-77c1", incidents=[], rollbacks=[], limits={})
    source = StillSource(runs={"r-77c1": other})
    app = LossguardApp(source)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("j", "enter")
        assert source.watched == ["r-77c1"]
        shown = await show(pilot, source, source.glimpse)
        assert "▸● vit-b16-imagenet" in shown
        assert "Incidents none" in shown
        await pilot.press("k", "enter", "down", "down", "enter", "G", "enter", "g", "enter")
        assert source.watched[1:] == ["r-8f3a", "r-51d0", "r-1f00", "r-8f3a"]


async def test_the_cursor_stays_on_its_run_when_the_list_changes() -> None:
    """A new run on top does not move what enter would choose."""
    source = StillSource()
    app = LossguardApp(source)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("down")
        runs = [pictures.run_summary("r-new", name="newcomer"), *pictures.all_runs()]
        assert "newcomer" in await show(pilot, source, Glimpse(pictures.picture(runs=runs)))
        assert app.query_one(Runs).cursor_key == "r-77c1"


async def test_the_run_named_at_the_start_is_asked_for() -> None:
    """``lossguard top NAME`` watches that run."""
    source = StillSource()
    async with LossguardApp(source, run="whisper").run_test():
        assert source.watched == ["whisper"]
        assert source.started
    assert source.closed


async def test_l_changes_both_charts_to_a_log_axis_and_back() -> None:
    """The titles say which axis is shown."""
    app = LossguardApp(StillSource())
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("l")
        await pilot.pause()
        assert screen_text(app).count("· log") == 2
        await pilot.press("l")
        await pilot.pause()
        assert "· log" not in screen_text(app)


async def test_question_mark_explains_keys_and_signs() -> None:
    """Every state and severity is explained, and esc leads back."""
    app = LossguardApp(StillSource())
    async with app.run_test(size=(120, 44)) as pilot:
        await pilot.press("question_mark")
        await pilot.pause()
        assert is_open(app, HelpScreen)
        shown = screen_text(app)
        for words in ("logarithmic", "silent:", "critical:", "a rollback", "NaN or Inf"):
            assert words in shown
        await pilot.press("j", "k", "escape")
        assert not is_open(app, HelpScreen)


async def test_i_and_enter_open_the_details_of_an_incident() -> None:
    """Evidence, what was done with its result, and what to type next."""
    app = LossguardApp(StillSource())
    async with app.run_test(size=(120, 44)) as pilot:
        await pilot.press("i")
        assert focus_of(app) == "incidents"
        await pilot.press("j", "enter")
        await pilot.pause()
        assert is_open(app, DetailsScreen)
        shown = screen_text(app)
        for words in (
            "divergence  critical, resolved  40 min ago",
            "step 9,726 (636 steps later)",
            "14.7 MADs above its trend",
            "exploding_gradient, clipping",
            "5.41",
            "done: back to 9,000",
            "lossguard explain divergence",
        ):
            assert words in shown
        await pilot.press("escape")
        assert not is_open(app, DetailsScreen)
        await pilot.press("escape")
        assert focus_of(app) == "runs"


async def test_open_details_follow_their_incident() -> None:
    """An action that is answered while the details are open appears in them."""
    source = StillSource()
    app = LossguardApp(source)
    async with app.run_test(size=(120, 44)) as pilot:
        await pilot.press("i", "enter")
        await pilot.pause()
        assert "nothing; it was only watched" in screen_text(app)
        lines = pictures.incidents()
        action = feed.ActionLine(action="set_clip", step=11_700, result="failed: no clipping seen")
        lines[3] = pictures.changed(lines[3], actions=[action])
        shown = await show(pilot, source, Glimpse(pictures.picture(incidents=lines)))
        assert "✗ set_clip" in shown
        assert "failed: no clipping seen" in shown


async def test_a_wide_screen_shows_the_details_beside_the_list() -> None:
    """Moving the cursor changes them, without a key."""
    app = LossguardApp(StillSource())
    async with app.run_test(size=(240, 60)) as pilot:
        await pilot.pause()
        assert "step 11,610 (490 steps later)" in screen_text(app)
        await pilot.press("i", "down", "down")
        await pilot.pause()
        assert "layers.3.attn.softmax" in screen_text(app)
        assert "lossguard explain nonfinite" in screen_text(app) or "loss_scale" in screen_text(app)


async def test_a_new_incident_comes_first() -> None:
    """While nobody is in the list, the newest one is under the cursor."""
    source = StillSource()
    app = LossguardApp(source)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        newest = pictures.changed(
            pictures.incidents()[0], id="inc-0005", opened=pictures.NOW_S, symptom="loss_spike"
        )
        picture = pictures.picture(incidents=[*pictures.incidents(), newest])
        await show(pilot, source, Glimpse(picture))
        assert app.query_one(Incidents).cursor_key == "inc-0005"


async def test_tab_moves_the_focus_and_q_quits() -> None:
    """The two keys that everybody tries."""
    app = LossguardApp(StillSource())
    async with app.run_test(size=(120, 40)) as pilot:
        assert focus_of(app) == "runs"
        await pilot.press("tab")
        assert focus_of(app) == "incidents"
        await pilot.press("tab")
        assert focus_of(app) == "runs"
        await pilot.press("q")
    assert app.return_code == 0


async def test_values_that_are_not_finite_stand_out() -> None:
    """NaN and Inf are named with a sign, never an empty cell."""
    last = {"loss": float("nan"), "grad_norm": float("inf"), "lr": 1e-4}
    shown = await text_of(Glimpse(pictures.picture(runs=[pictures.run_summary(last=last)])))
    assert "✗ NaN" in shown
    assert "✗ Inf" in shown


HOSTILE = "[red]x[/red]\n\x1b[2J\x1b]0;owned\x07[@click=app.quit]" + "long " * 200


@pytest.mark.parametrize("size", [(80, 24), (240, 60)])
async def test_hostile_text_is_shown_literally_everywhere(size: tuple[int, int]) -> None:
    """Markup and escape sequences in any field from the network are only text."""
    incident = pictures.changed(
        pictures.incidents()[3],
        id=HOSTILE,
        symptom=HOSTILE,
        severity=HOSTILE,
        where=HOSTILE,
        message=HOSTILE,
        metric=HOSTILE,
        evidence={HOSTILE: 1.0},
        actions=[feed.ActionLine(action=HOSTILE, step=1, result=HOSTILE)],
    )
    picture = pictures.picture(
        runs=[pictures.run_summary(HOSTILE, name=HOSTILE, policy=HOSTILE, worst=HOSTILE)],
        run=HOSTILE,
        incidents=[incident, incident],
        events=[feed.EventLine(step=1, kind=HOSTILE, message=HOSTILE)],
    )
    source = StillSource(Glimpse(picture, trouble=HOSTILE))
    app = LossguardApp(source)
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        shown = screen_text(app)
        assert "[red]x[/red]␊␛[2J" in shown
        assert "\x1b" not in shown
        await pilot.press("i", "enter")
        await pilot.pause()
        assert "[red]x[/red]␊␛[2J␛]0;owned␇[@click=app.quit]" in screen_text(app)


async def test_a_picture_about_a_run_that_is_not_listed_is_survived() -> None:
    """Lists and the rest of a picture may disagree for a moment."""
    assert "Runs 7" in await text_of(Glimpse(pictures.picture(run="r-gone", series=[])))


async def test_an_unchanged_picture_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times a second nothing happens while nothing happens."""
    source = StillSource()
    app = LossguardApp(source)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        drawn: list[str] = []
        for widget in app.screen.walk_children():
            monkeypatch.setattr(widget, "refresh", lambda *_, **__: drawn.append("again"))
        app.refresh_picture()
        source.glimpse = dataclasses.replace(source.glimpse, picture=pictures.picture())
        app.refresh_picture()
        assert drawn == []


async def test_no_color_leaves_every_sign_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    """With NO_COLOR set there is no hue on the screen, and the glyphs still tell all."""
    monkeypatch.setenv("NO_COLOR", "1")
    app = LossguardApp(StillSource())
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        shown = screen_text(app)
        assert "◌ whisper-ft-de" in shown
        assert "▲ clipping" in shown
        colours = {
            style.color.triplet
            for strip in app.screen._compositor.render_strips()
            for _, style, _ in strip
            if style and style.color and style.color.triplet
        }
        assert colours
        assert all(max(colour) - min(colour) <= 1 for colour in colours)
