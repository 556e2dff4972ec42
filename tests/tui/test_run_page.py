"""The screen of a run: zoom, pan, cursor, axes, charts and comparing."""

from __future__ import annotations

import pytest

from lossguard.agent import feed
from lossguard.tui.chart import Chart
from lossguard.tui.run_page import RunPage
from lossguard.tui.run_steps import next_of, window_to_ask
from lossguard.tui.source import Glimpse
from lossguard.tui.view import View, Window
from tests.tui import pictures
from tests.tui.driving import Seat, seat
from tests.tui.pictures import StillSource

WHOLE = Window(0, 100_000)


def page(here: Seat) -> RunPage:
    """The screen itself."""
    return here.app.query_one(RunPage)


def window(here: Seat, chart: str = "loss") -> Window:
    """What a chart shows."""
    found = here.app.query_one(f"#{chart}", Chart).window
    assert found is not None
    return found


async def test_zoom_and_pan_move_all_charts_together() -> None:
    """Nearer, along, to the end where it follows, and back to the whole run."""
    async with seat() as here:
        whole = window(here)
        await here.press("n", "plus", "plus", "plus")
        near = window(here)
        assert near.span == pytest.approx(whole.span / 8, abs=2)
        assert near.first <= pictures.SPIKE <= near.last
        assert all(window(here, chart.id or "") == near for chart in page(here).charts)
        await here.press("less_than_sign")
        assert window(here).first < near.first
        await here.press(*["greater_than_sign"] * 20)
        assert window(here).last == whole.last
        assert page(here).view.end == -1
        await here.press("minus")
        assert window(here).span > near.span
        await here.press("0")
        assert window(here) == whole


async def test_the_cursor_reads_exact_values() -> None:
    """Of the step under it, with the extremes of what a column holds; on all charts at once."""
    async with seat() as here:
        shown = await here.press("n")
        assert "(from 2.686734" in shown
        assert "to 9.7)" in shown
        await here.press(*["plus"] * 11)
        assert "steps 4,308–4,313: 2.845032 (from 2.845032 to 9.7)" in here.text  # noqa: RUF001
        before = page(here).view.cursor
        await here.press("right", "l", "left")
        after = page(here).view.cursor
        assert after > before
        await here.press("shift+right")
        assert page(here).view.cursor >= after + 10
        await here.press("escape")
        assert page(here).view.cursor == -1
        assert page(here).view.span


async def test_n_visits_every_incident_in_turn() -> None:
    """Forward and back, and around the end."""
    async with seat() as here:
        seen = []
        for key in ("n", "n", "n", "n", "n", "N"):
            await here.press(key)
            seen.append(page(here).view.cursor)
        onsets = sorted(one.onset_step for one in pictures.incidents())
        assert seen == [*onsets, onsets[0], onsets[-1]]


async def test_axes_and_smoothing_change_by_a_key() -> None:
    """y on all charts; s on the line of the loss."""
    async with seat() as here:
        assert (await here.press("y")).count("· log") == 5
        assert "· log" not in await here.press("y")
        lines = {page(here).view.smoothing}
        for _ in range(2):
            await here.press("s")
            lines.add(page(here).view.smoothing)
        assert lines == {0, 1, 2}


async def test_a_chart_can_have_the_screen_for_itself() -> None:
    """Enter enlarges, c goes on to the next, esc gives the others back."""
    async with seat() as here:
        shown = await here.press("enter")
        assert "loss · ●" in shown
        assert "gradient norm" not in shown
        assert "gradient norm" in await here.press("c")
        shown = await here.press("escape")
        assert "learning rate" in shown
        assert "gradient norm" in shown
        await here.press("c")
        assert isinstance(here.app.focused, Chart)
        await here.press("k", "j")
        assert isinstance(here.app.focused, Chart)


async def test_on_a_small_screen_c_chooses_the_second_chart() -> None:
    """Each of the others comes by."""
    async with seat(size=(80, 24)) as here:
        seen = [here.text, *[await here.press("c") for _ in range(4)]]
        for words, text in zip(
            ("gradient norm", "learning rate", "step time", "loss scale", "gradient norm"),
            seen,
            strict=True,
        ):
            assert f"─{words}" in text


async def test_t_puts_another_metric_into_the_last_chart() -> None:
    """All metrics of the run come by, and each is asked for."""
    async with seat() as here:
        assert here.source.wanted.metrics[-1] == "loss_scale"
        assert "no values yet" in await here.press("t")
        assert here.source.wanted.metrics[-1] == "rss"
        await here.press("T")
        assert here.source.wanted.metrics[-1] == "loss_scale"


async def test_two_runs_on_one_chart() -> None:
    """v leads to the list, v there chooses, the other is asked for and drawn, v again ends it."""
    async with seat() as here:
        await here.press("v")
        assert here.page == "runs-page"
        await here.press("v")
        assert "cannot be compared with itself" in here.toasts
        await here.press("j", "v")
        assert here.source.wanted.beside == "r-77c1"
        await here.look(beside=pictures.beside())
        shown = await here.press("2")
        assert "━ vit-b16-imagenet" in shown
        assert "other" in await here.press("left")
        await here.press("v")
        assert here.source.wanted.beside == ""


async def test_a_cut_shows_where_a_rollback_happened() -> None:
    """From where to where, on every chart."""
    async with seat() as here:
        assert here.text.count("┓") == 5
        assert "┓" not in await here.look(rollbacks=[])


async def test_another_run_is_looked_at_whole() -> None:
    """What was zoomed into is of the run before."""
    other = pictures.picture(run="r-77c1")
    source = StillSource(runs={"r-77c1": other})
    async with seat(source) as here:
        await here.press("n", "plus", "plus", "1", "j", "enter")
        assert page(here).view.span == 0
        assert page(here).view.cursor == -1


async def test_a_deep_zoom_asks_for_the_steps_themselves() -> None:
    """A long run is sent in buckets; near enough its steps are asked for, and only then."""
    async with seat() as here:
        before = here.source.wanted.window
        assert before is None
        await here.press("n", *["plus"] * 3)
        asked = here.source.wanted.window
        assert asked is not None
        seen = window(here)
        assert asked[0] <= seen.first
        assert seen.last <= asked[1]
        assert asked[1] - asked[0] <= feed.CLOSEST_STEPS
        closer = pictures.series("loss", *_close(asked), buckets=9000)
        await here.look(Glimpse(pictures.picture(series=[closer])))
        assert window(here) == seen
        assert "to 9.7)" in here.text


def _close(asked: tuple[int, int]) -> tuple[pictures.Floats, pictures.Floats]:
    steps, loss = pictures.loss_curve()
    return steps[max(0, asked[0]) : asked[1]], loss[max(0, asked[0]) : asked[1]]


def test_a_view_follows_the_newest_step_until_one_looks_elsewhere() -> None:
    """Zoomed in at the end it goes on; panned away it stays."""
    near = View().zoomed(0.01, WHOLE)
    assert near.window(WHOLE) == Window(99_000, 100_000)
    assert near.window(Window(0, 100_500)) == Window(99_500, 100_500)
    away = near.panned(-3.0, WHOLE)
    assert away.window(WHOLE) == away.window(Window(0, 200_000)) == Window(96_000, 97_000)
    assert away.panned(99.0, WHOLE).end == -1
    assert near.zoomed(1e6, WHOLE) == View()


def test_zooming_goes_to_the_cursor_and_has_an_end() -> None:
    """What is under it stays in view down to eight steps, and it never leaves the run."""
    view = View().at(31_234, WHOLE)
    for _ in range(30):
        view = view.zoomed(0.5, WHOLE)
        seen = view.window(WHOLE)
        assert seen.first <= 31_234 <= seen.last
    assert seen.span == 8
    assert View().at(-5, WHOLE).cursor == 0
    assert View().at(10**9, WHOLE).cursor == 100_000
    assert view.at(90_000, WHOLE).window(WHOLE).first <= 90_000 <= view.at(90_000, WHOLE).end


def test_panning_within_a_run_asks_seldom() -> None:
    """What is asked for is wider than what is seen, in units of half of it."""
    asked = {window_to_ask(View(span=1000, end=end), WHOLE) for end in range(50_000, 50_500, 10)}
    assert len(asked) <= 2
    assert window_to_ask(View(), WHOLE) is None
    assert window_to_ask(View(span=50_000), WHOLE) is None
    assert next_of([], 3, 1) is None
